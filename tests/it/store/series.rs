use std::time::Duration;

use chrono::{DateTime, TimeZone as _, Utc};
use model_asynch::{
    clock, recorder,
    secrets::Vault,
    series::{Counts, Point, SeriesRow, Span},
    store::{Store, series::SeriesFilter},
    task::TenantId,
};

use crate::{backend_test, support::backend::TestDb};

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

fn minute(minute: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 10, minute, 0).unwrap()
}

fn row(at: DateTime<Utc>, tenant: i64, model: &str, created: u64) -> SeriesRow {
    let counts = Counts { created, succeeded: 2, failed: 3, retried: 4, lost: 5, calls: 6, bytes: u64::MAX };
    let mut point = Point { counts, ..Point::default() };
    point.wait.record(Duration::from_millis(created));
    point.run.record(Duration::from_secs(1));
    SeriesRow { span: Span::Minute, at, tenant: TenantId(tenant), model_name: model.to_owned(), point }
}

fn all() -> SeriesFilter {
    SeriesFilter { span: Span::Minute, from: minute(0), to: minute(59), tenant: None, model_name: None }
}

async fn read(store: &Store, filter: &SeriesFilter) -> Vec<SeriesRow> {
    let mut rows = Vec::new();
    store.read_series(filter, |row| rows.push(row)).await.unwrap();
    rows.sort_by_key(|row| (row.at, row.tenant, row.model_name.clone(), row.point.counts.created));
    rows
}

backend_test!(a_point_written_again_takes_the_place_of_what_was_written_before, async |db: &TestDb| {
    let (store, node) = (open(db).await, clock::node_id());
    let [first, second] = [1, 7].map(|created| row(minute(1), 7, "tts", created));
    store.write_series(node, &[&first]).await.unwrap();
    store.write_series(node, &[&second]).await.unwrap();
    let expected = Counts { bytes: i64::MAX as u64, ..second.point.counts };
    let found = read(&store, &all()).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].point.counts, &found[0].point.wait), (expected, &second.point.wait));
    assert_eq!((found[0].at, found[0].tenant, found[0].model_name.as_str()), (minute(1), TenantId(7), "tts"));
    store.write_series(clock::node_id(), &[&first]).await.unwrap();
    assert_eq!(read(&store, &all()).await.len(), 2, "every process has rows of its own");
});

backend_test!(points_are_found_by_time_tenant_and_model, async |db: &TestDb| {
    let store = open(db).await;
    let rows =
        [row(minute(1), 7, "a", 1), row(minute(2), 7, "b", 2), row(minute(2), 8, "a", 3), row(minute(3), 8, "b", 4)];
    store.write_series(clock::node_id(), &rows.iter().collect::<Vec<_>>()).await.unwrap();
    let created = async |filter: SeriesFilter| -> Vec<u64> {
        read(&store, &filter).await.iter().map(|row| row.point.counts.created).collect()
    };
    assert_eq!(created(all()).await, [1, 2, 3, 4]);
    assert_eq!(created(SeriesFilter { from: minute(2), to: minute(3), ..all() }).await, [2, 3]);
    assert_eq!(created(SeriesFilter { tenant: Some(TenantId(8)), ..all() }).await, [3, 4]);
    assert_eq!(created(SeriesFilter { model_name: Some("a".into()), ..all() }).await, [1, 3]);
    let none = SeriesFilter { tenant: Some(TenantId(7)), model_name: Some("A\0".into()), ..all() };
    assert!(created(none).await.is_empty());
    assert!(created(SeriesFilter { span: Span::Hour, ..all() }).await.is_empty());
});

backend_test!(points_older_than_anybody_looks_at_are_deleted_in_small_batches, async |db: &TestDb| {
    let store = open(db).await;
    let now = clock::now();
    let ages = [1, 7, 9, 10, 11]
        .map(|days| row(Span::Minute.begin(Span::Minute.number(now)) - chrono::TimeDelta::days(days), 7, "m", 1));
    let hours = [62, 64].map(|days| SeriesRow {
        span: Span::Hour,
        at: Span::Hour.begin(Span::Hour.number(now)) - chrono::TimeDelta::days(days),
        ..ages[0].clone()
    });
    let rows: Vec<&SeriesRow> = ages.iter().chain(&hours).collect();
    store.write_series(clock::node_id(), &rows).await.unwrap();
    let before = now - recorder::kept(Span::Minute);
    assert_eq!(store.purge_series(Span::Minute, before, 2).await.unwrap(), 2, "the oldest first");
    assert_eq!(recorder::purge(&store, 10).await.unwrap(), model_asynch::periodic::Swept::All);
    let from = now - chrono::TimeDelta::days(100);
    let left = |span| SeriesFilter { span, from, to: now, ..all() };
    assert_eq!(read(&store, &left(Span::Minute)).await.len(), 2);
    assert_eq!(read(&store, &left(Span::Hour)).await.len(), 1);
});
