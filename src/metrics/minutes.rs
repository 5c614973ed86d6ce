//! What happens now, by tenant and model: minutes that still go on, minutes and hours that wait to be
//! written, and what each lane came to since the start.
//!
//! A point is written with all it came to, under an id of this process, so that writing it again does
//! no harm and no two nodes change the same row.

use std::collections::{BTreeMap, HashMap};

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

/// Points by tenant and model; in two steps, so that a look-up needs no owned name.
type ByLane<T> = HashMap<TenantId, HashMap<String, T>>;

/// See the module.
pub(super) struct Minutes {
    minutes: BTreeMap<i64, Minute>,
    hours: BTreeMap<i64, ByLane<Entry>>,
    /// Points in all of them.
    points: usize,
    /// What happened and is in no point, for want of room.
    dropped: u64,
    lanes: ByLane<Counts>,
    named: usize,
    most_named: usize,
    /// All lanes without a name of their own.
    rest: Counts,
}

#[derive(Default)]
struct Minute {
    lanes: ByLane<Entry>,
    /// Its hour has it.
    added: bool,
}

/// A point, and how much of it is in the database.
#[derive(Default)]
struct Entry {
    point: Point,
    version: u64,
    written: u64,
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
    /// Nothing yet. So many lanes get a name, those that come first.
    pub(super) fn new(most_named: usize) -> Minutes {
        Minutes {
            minutes: BTreeMap::new(),
            hours: BTreeMap::new(),
            points: 0,
            dropped: 0,
            lanes: HashMap::new(),
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
        self.lane(tenant, model).add(counts);
        // A clock that goes back must not open a minute again that is written and forgotten.
        let newest = self.minutes.last_key_value().map_or(i64::MIN, |(number, _)| *number);
        let minute = self.minutes.entry(Span::Minute.number(now).max(newest)).or_default();
        let Some(entry) = entry(&mut minute.lanes, &mut self.points, tenant, model) else {
            self.dropped += 1;
            return;
        };
        entry.point.counts.add(counts);
        times(&mut entry.point);
        entry.version += 1;
    }

    /// The lane's own counts, or those of the rest. A name once given stays, so that no counter ever
    /// goes back.
    fn lane(&mut self, tenant: TenantId, model: &str) -> &mut Counts {
        let named = self.lanes.get(&tenant).is_some_and(|models| models.contains_key(model));
        if !named && self.named >= self.most_named {
            return &mut self.rest;
        }
        self.named += usize::from(!named);
        let models = self.lanes.entry(tenant).or_default();
        if !named {
            models.insert(model.to_owned(), Counts::default());
        }
        match models.get_mut(model) {
            Some(lane) => lane,
            None => &mut self.rest,
        }
    }

    /// Each lane with a name, and the rest.
    pub(super) fn lanes(&self) -> (Vec<(TenantId, String, Counts)>, Counts) {
        let of = |(tenant, models): (&TenantId, &HashMap<String, Counts>)| {
            let tenant = *tenant;
            models.iter().map(|(model, count)| (tenant, model.clone(), *count)).collect::<Vec<_>>()
        };
        (self.lanes.iter().flat_map(of).collect(), self.rest)
    }

    /// What is in no point for want of room, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Points that changed since they were written last. Minutes that are over are added to their
    /// hour; with `last` that of this moment too.
    pub(super) fn unwritten(&mut self, now: DateTime<Utc>, last: bool) -> Batch {
        self.add_to_hours(if last { i64::MAX } else { Span::Minute.number(now) });
        let minutes = self.minutes.iter().map(|(number, minute)| (Span::Minute, *number, &minute.lanes));
        let hours = self.hours.iter().map(|(number, lanes)| (Span::Hour, *number, lanes));
        let mut rows = Vec::new();
        for (span, number, lanes) in minutes.chain(hours) {
            for (tenant, model, entry) in each(lanes).filter(|(_, _, entry)| entry.written < entry.version) {
                let (at, model_name) = (span.begin(number), model.to_owned());
                let row = SeriesRow { span, at, tenant, model_name, point: entry.point.clone() };
                rows.push((row, entry.version));
                if rows.len() > BATCH {
                    rows.truncate(BATCH);
                    return Batch { rows, more: true };
                }
            }
        }
        Batch { rows, more: false }
    }

    fn add_to_hours(&mut self, before: i64) {
        for (number, minute) in self.minutes.range_mut(..before).filter(|(_, minute)| !minute.added) {
            minute.added = true;
            let hour = self.hours.entry(Span::Hour.number(Span::Minute.begin(*number))).or_default();
            for (tenant, model, part) in each(&minute.lanes) {
                match entry(hour, &mut self.points, tenant, model) {
                    Some(entry) => {
                        entry.point.add(&part.point);
                        entry.version += 1;
                    }
                    None => self.dropped += 1,
                }
            }
        }
    }

    /// Those points are in the database as they were then; what is over and written is forgotten.
    pub(super) fn written(&mut self, batch: &Batch) {
        for (row, version) in &batch.rows {
            let number = row.span.number(row.at);
            let lanes = match row.span {
                Span::Minute => self.minutes.get_mut(&number).map(|minute| &mut minute.lanes),
                Span::Hour => self.hours.get_mut(&number),
            };
            let entry = lanes.and_then(|lanes| lanes.get_mut(&row.tenant)?.get_mut(&row.model_name));
            if let Some(entry) = entry {
                entry.written = *version;
            }
        }
        let is_written = |lanes: &ByLane<Entry>| each(lanes).all(|(_, _, entry)| entry.written == entry.version);
        // The newest minute stays, and with it its number.
        let newest = self.minutes.last_key_value().map(|(number, _)| *number);
        self.minutes.retain(|number, minute| Some(*number) == newest || !minute.added || !is_written(&minute.lanes));
        let oldest = self.minutes.first_key_value().map(|(number, _)| Span::Hour.number(Span::Minute.begin(*number)));
        self.hours.retain(|number, lanes| oldest.is_none_or(|oldest| *number >= oldest) || !is_written(lanes));
        let all = self.minutes.values().map(|minute| &minute.lanes).chain(self.hours.values());
        self.points = all.flat_map(HashMap::values).map(HashMap::len).sum();
    }
}

/// The entry of a lane, made where there is room.
fn entry<'a>(lanes: &'a mut ByLane<Entry>, points: &mut usize, tenant: TenantId, model: &str) -> Option<&'a mut Entry> {
    let known = lanes.get(&tenant).is_some_and(|models| models.contains_key(model));
    if !known {
        if *points >= MOST_POINTS {
            return None;
        }
        *points += 1;
        lanes.entry(tenant).or_default().insert(model.to_owned(), Entry::default());
    }
    lanes.get_mut(&tenant)?.get_mut(model)
}

fn each(lanes: &ByLane<Entry>) -> impl Iterator<Item = (TenantId, &str, &Entry)> {
    lanes.iter().flat_map(|(tenant, models)| models.iter().map(|(model, entry)| (*tenant, model.as_str(), entry)))
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
        assert_eq!((minutes.minutes.len(), minutes.points), (1, 2), "what is over and written is forgotten");
        let last = minutes.unwritten(at(2, 20), true);
        assert_eq!(rows(&last), [(Span::Hour, "10:00".into(), 2)]);
        minutes.written(&last);
        create(&mut minutes, at(59, 0) + Duration::from_secs(120), ANN, "m");
        let batch = minutes.unwritten(at(59, 0) + Duration::from_secs(120), false);
        minutes.written(&batch);
        assert_eq!(minutes.hours.len(), 0);
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
