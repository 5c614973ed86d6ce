//! What happens now, by tenant and model: minutes that still go on, minutes and hours that wait to be
//! written, and what each lane came to since the start.
//!
//! A point is written with all it came to, under an id of this process, so that writing it again does
//! no harm and no two nodes change the same row.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::{
    series::{Counts, Point, SeriesRow, Span},
    task::TenantId,
};

/// Most points in memory, in all minutes and hours together: with the database away for long, or
/// with very many lanes, the rest is not kept.
const MOST_POINTS: usize = 20_000;

/// Most points written at once.
const BATCH: usize = 1000;

/// See the module.
pub(super) struct Minutes {
    /// In two steps, so that a look-up needs no owned name.
    lanes: HashMap<TenantId, HashMap<String, Lane>>,
    /// Points in all of them.
    points: usize,
    /// What happened and is in no point, for want of room.
    dropped: u64,
    /// The latest minute that anything was counted in.
    newest: i64,
    named: usize,
    most_named: usize,
    /// All lanes without a name of their own, since the start.
    rest: Counts,
}

#[derive(Default)]
struct Lane {
    /// What it came to since the start of this process, if it is one of those that are told by name.
    /// A name once given stays, so that no counter ever goes back.
    counts: Option<Counts>,
    /// The oldest first.
    minutes: Vec<Entry>,
    hours: Vec<Entry>,
}

/// A point, and how much of it is in the database.
struct Entry {
    number: i64,
    point: Point,
    version: u64,
    written: u64,
    /// Its hour has it.
    added: bool,
}

/// Points to be written.
pub struct Batch {
    rows: Vec<(SeriesRow, u64)>,
    /// More are waiting.
    pub more: bool,
}

impl Batch {
    /// The points.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &SeriesRow> {
        self.rows.iter().map(|(row, _)| row)
    }
}

impl Minutes {
    /// Nothing yet. So many lanes are told by name, those that come first.
    pub(super) fn new(most_named: usize) -> Minutes {
        Minutes {
            lanes: HashMap::new(),
            points: 0,
            dropped: 0,
            newest: i64::MIN,
            named: 0,
            most_named,
            rest: Counts::default(),
        }
    }

    /// Adds to the point of this moment: how often, and how long it took.
    pub(super) fn count(
        &mut self,
        now: DateTime<Utc>,
        tenant: TenantId,
        model: &str,
        counts: Counts,
        times: impl FnOnce(&mut Point),
    ) {
        // A clock that goes back must not open a minute again that is written and forgotten.
        self.newest = self.newest.max(Span::Minute.number(now));
        let Minutes { lanes, points, dropped, newest, rest, .. } = self;
        if let Some(lane) = lanes.get_mut(&tenant).and_then(|models| models.get_mut(model)) {
            lane.counts.as_mut().unwrap_or(rest).add(counts);
            match entry(&mut lane.minutes, *newest, points) {
                Some(entry) => entry.count(counts, times),
                None => *dropped += 1,
            }
        } else if self.meet(tenant, model) {
            self.count(now, tenant, model, counts, times);
        } else {
            self.rest.add(counts);
            self.dropped += 1;
        }
    }

    /// Each lane with a name, and the rest.
    pub(super) fn lanes(&self) -> (Vec<(TenantId, String, Counts)>, Counts) {
        let named = self.each().filter_map(|(tenant, model, lane)| Some((tenant, model.to_owned(), lane.counts?)));
        (named.collect(), self.rest)
    }

    /// What is in no point for want of room, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Points that changed since they were written last. Minutes that are over are added to their
    /// hour; with `last` that of this moment too.
    pub(super) fn unwritten(&mut self, now: DateTime<Utc>, last: bool) -> Batch {
        self.add_to_hours(if last { i64::MAX } else { Span::Minute.number(now) });
        let mut rows = Vec::new();
        for (tenant, model, lane) in self.each() {
            let entries = Span::ALL.into_iter().flat_map(|span| lane.of(span).iter().map(move |entry| (span, entry)));
            for (span, entry) in entries.filter(|(_, entry)| entry.written < entry.version) {
                if rows.len() == BATCH {
                    return Batch { rows, more: true };
                }
                let (at, model_name) = (span.begin(entry.number), model.to_owned());
                rows.push((SeriesRow { span, at, tenant, model_name, point: entry.point.clone() }, entry.version));
            }
        }
        Batch { rows, more: false }
    }

    fn add_to_hours(&mut self, before: i64) {
        for lane in self.lanes.values_mut().flat_map(HashMap::values_mut) {
            for minute in lane.minutes.iter_mut().filter(|minute| minute.number < before && !minute.added) {
                minute.added = true;
                match entry(&mut lane.hours, hour_of(minute.number), &mut self.points) {
                    Some(hour) => {
                        hour.point.add(&minute.point);
                        hour.version += 1;
                    }
                    None => self.dropped += 1,
                }
            }
        }
    }

    /// Those points are in the database as they were then; what is over and written is forgotten.
    pub(super) fn written(&mut self, batch: &Batch) {
        for (row, version) in &batch.rows {
            let lane = self.lanes.get_mut(&row.tenant).and_then(|models| models.get_mut(&row.model_name));
            let number = row.span.number(row.at);
            let entry = lane.and_then(|lane| lane.of_mut(row.span).iter_mut().find(|entry| entry.number == number));
            if let Some(entry) = entry {
                entry.written = *version;
            }
        }
        let newest = self.newest;
        self.points = 0;
        for models in self.lanes.values_mut() {
            models.retain(|_, lane| {
                lane.forget(newest);
                let points = lane.minutes.len() + lane.hours.len();
                self.points += points;
                points > 0 || lane.counts.is_some()
            });
        }
        self.lanes.retain(|_, models| !models.is_empty());
    }

    /// Takes a lane in, where there is room.
    fn meet(&mut self, tenant: TenantId, model: &str) -> bool {
        let named = self.named < self.most_named;
        let has_room = named || self.points < MOST_POINTS;
        if has_room {
            self.named += usize::from(named);
            let lane = Lane { counts: named.then(Counts::default), ..Lane::default() };
            self.lanes.entry(tenant).or_default().insert(model.to_owned(), lane);
        }
        has_room
    }

    fn each(&self) -> impl Iterator<Item = (TenantId, &str, &Lane)> {
        let of = |(tenant, models): (&TenantId, _)| each_of(*tenant, models);
        self.lanes.iter().flat_map(of)
    }
}

impl Lane {
    fn of(&self, span: Span) -> &[Entry] {
        match span {
            Span::Minute => &self.minutes,
            Span::Hour => &self.hours,
        }
    }

    fn of_mut(&mut self, span: Span) -> &mut [Entry] {
        match span {
            Span::Minute => &mut self.minutes,
            Span::Hour => &mut self.hours,
        }
    }

    /// Lets go of what is written and cannot change any more: the minute of this moment can, and so
    /// can the hours of minutes that are left.
    fn forget(&mut self, newest: i64) {
        self.minutes.retain(|minute| minute.number == newest || !minute.added || minute.written < minute.version);
        let oldest = hour_of(self.minutes.first().map_or(newest, |minute| minute.number));
        self.hours.retain(|hour| hour.number >= oldest || hour.written < hour.version);
    }
}

impl Entry {
    fn count(&mut self, counts: Counts, times: impl FnOnce(&mut Point)) {
        self.point.counts.add(counts);
        times(&mut self.point);
        self.version += 1;
    }
}

fn each_of(tenant: TenantId, models: &HashMap<String, Lane>) -> impl Iterator<Item = (TenantId, &str, &Lane)> {
    models.iter().map(move |(model, lane)| (tenant, model.as_str(), lane))
}

/// The entry of that number, the newest as a rule, made where there is room.
fn entry<'a>(entries: &'a mut Vec<Entry>, number: i64, points: &mut usize) -> Option<&'a mut Entry> {
    if entries.last().is_none_or(|last| last.number < number) {
        if *points >= MOST_POINTS {
            return None;
        }
        *points += 1;
        entries.push(Entry { number, point: Point::default(), version: 0, written: 0, added: false });
    }
    entries.iter_mut().rev().find(|entry| entry.number == number)
}

/// The hour that a minute is in.
fn hour_of(minute: i64) -> i64 {
    Span::Hour.number(Span::Minute.begin(minute))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeZone as _;

    use super::*;

    const ANN: TenantId = TenantId(7);

    fn at(minute: u32, second: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 22, 10, minute, second).unwrap()
    }

    fn create(minutes: &mut Minutes, now: DateTime<Utc>, tenant: TenantId, model: &str) {
        let counts = Counts { created: 1, ..Counts::default() };
        minutes.count(now, tenant, model, counts, |point| point.wait.record(Duration::from_secs(1)));
    }

    /// Span, minute it began, created.
    fn rows(batch: &Batch) -> Vec<(Span, String, u64)> {
        let mut rows: Vec<_> =
            batch.rows().map(|row| (row.span, row.at.format("%H:%M").to_string(), row.point.counts.created)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn a_point_is_written_whole_until_nothing_more_happens() {
        let mut minutes = Minutes::new(10);
        create(&mut minutes, at(1, 5), ANN, "m");
        let first = minutes.unwritten(at(1, 10), false);
        assert_eq!(rows(&first), [(Span::Minute, "10:01".into(), 1)]);
        create(&mut minutes, at(1, 15), ANN, "m");
        minutes.written(&first);
        let second = minutes.unwritten(at(1, 20), false);
        assert_eq!(rows(&second), [(Span::Minute, "10:01".into(), 2)], "what came meanwhile is not forgotten");
        assert_eq!(second.rows().next().unwrap().point.wait.count(), 2);
        minutes.written(&second);
        assert_eq!(rows(&minutes.unwritten(at(1, 30), false)), []);
    }

    #[test]
    fn a_minute_that_is_over_belongs_to_its_hour() {
        let mut minutes = Minutes::new(10);
        create(&mut minutes, at(1, 0), ANN, "m");
        create(&mut minutes, at(2, 0), ANN, "m");
        let batch = minutes.unwritten(at(2, 10), false);
        let hour = (Span::Hour, "10:00".to_owned(), 1);
        assert_eq!(rows(&batch), [(Span::Minute, "10:01".into(), 1), (Span::Minute, "10:02".into(), 1), hour]);
        minutes.written(&batch);
        assert_eq!(minutes.points, 2, "what is over and written is forgotten");
        let last = minutes.unwritten(at(2, 20), true);
        assert_eq!(rows(&last), [(Span::Hour, "10:00".into(), 2)]);
        minutes.written(&last);
        create(&mut minutes, at(59, 0) + Duration::from_secs(120), ANN, "m");
        let batch = minutes.unwritten(at(59, 0) + Duration::from_secs(120), false);
        minutes.written(&batch);
        assert_eq!(minutes.points, 1, "the hour is over, too");
    }

    #[test]
    fn a_clock_that_goes_back_opens_no_minute_again() {
        let mut minutes = Minutes::new(10);
        create(&mut minutes, at(5, 0), ANN, "m");
        create(&mut minutes, at(3, 0), ANN, "m");
        assert_eq!(rows(&minutes.unwritten(at(5, 0), false)), [(Span::Minute, "10:05".into(), 2)]);
    }

    #[test]
    fn what_has_no_room_is_counted_and_dropped() {
        let mut minutes = Minutes::new(0);
        for n in 0..=MOST_POINTS {
            create(&mut minutes, at(1, 0), ANN, &n.to_string());
        }
        assert_eq!((minutes.points, minutes.dropped()), (MOST_POINTS, 1));
        let batch = minutes.unwritten(at(1, 1), false);
        assert_eq!((batch.rows().len(), batch.more), (BATCH, true));
    }
}
