use chrono::NaiveDate;
use model_asynch::{
    secrets::Vault,
    store::{Page, Store, stats::StatFilter},
    task::TenantId,
};

use crate::{
    backend_test,
    support::{
        backend::{Kind, TestDb},
        raw::Raw,
    },
};

const ALL: Page = Page { offset: 0, limit: 100 };

/// Day, tenant, creator, model, count.
const ROWS: [(&str, i64, &str, &str, i64); 7] = [
    ("2026-11-20", 7, "ann", "tts", 5),
    ("2026-11-21", 7, "ann", "tts", 2),
    ("2026-11-21", 7, "bob", "ocr", 9),
    ("2026-11-21", 7, "bob", "asr", 9),
    ("2026-11-22", 7, "bob_x", "100%", 1),
    ("2026-11-21", 8, "ann", "tts", 4),
    ("2026-11-22", 8, "Ann", "tts", 3),
];

async fn open(db: &TestDb) -> Store {
    let (store, _committers) = Store::open(&db.config, Vault::default()).await.unwrap();
    let at = match db.kind() {
        Kind::Postgres => "to_timestamp(1.5)",
        Kind::Sqlite => "1500000",
    };
    let values = ROWS.map(|(day, tenant, creator, model, count)| {
        format!("('{day}', {tenant}, '{creator}', '{model}', {count}, {count} - 1, 1, 0.25, 1024, {at}, {at})")
    });
    let insert = format!("INSERT INTO asynch_model_stat VALUES {}", values.join(", "));
    Raw::connect(db).await.execute(insert).await;
    store
}

fn day(text: &str) -> Option<NaiveDate> {
    Some(text.parse().unwrap())
}

/// `day tenant creator model` of the rows that match, and their total.
async fn found(store: &Store, tenant: Option<i64>, filter: &StatFilter, page: Page) -> (Vec<String>, i64) {
    let listing = store.list_stats(tenant.map(TenantId), filter, page).await.unwrap();
    let line = |row: &model_asynch::stats::DayStat| {
        format!("{} {} {} {}", row.day.format("%d"), row.tenant, row.creator, row.model_name)
    };
    (listing.list.iter().map(line).collect(), listing.total)
}

backend_test!(statistics_are_read_back_as_they_were_counted, async |db: &TestDb| {
    let store = open(db).await;
    let page = Page { offset: 0, limit: 1 };
    let listing = store.list_stats(Some(TenantId(7)), &StatFilter::default(), page).await.unwrap();
    let row = &listing.list[0];
    assert_eq!(row.day, NaiveDate::from_ymd_opt(2026, 11, 22).unwrap());
    assert_eq!((row.request_count, row.success_count, row.failure_count), (1, 0, 1));
    assert_eq!((row.total_seconds, row.result_bytes), (0.25, 1024));
    assert_eq!((row.created_at.timestamp_millis(), row.updated_at.timestamp_millis()), (1500, 1500));
});

backend_test!(the_newest_day_comes_first_and_then_the_largest_count, async |db: &TestDb| {
    let store = open(db).await;
    let (own, total) = found(&store, Some(7), &StatFilter::default(), ALL).await;
    assert_eq!(own, ["22 7 bob_x 100%", "21 7 bob asr", "21 7 bob ocr", "21 7 ann tts", "20 7 ann tts"]);
    assert_eq!(total, 5);
    let (every, total) = found(&store, None, &StatFilter::default(), Page { offset: 0, limit: 3 }).await;
    assert_eq!(every, ["22 8 Ann tts", "22 7 bob_x 100%", "21 7 bob asr"]);
    assert_eq!(total, 7);
    assert_eq!(found(&store, None, &StatFilter::default(), Page { offset: 9, limit: 3 }).await, (vec![], 7));
});

backend_test!(both_ends_of_a_range_of_days_belong_to_it, async |db: &TestDb| {
    let store = open(db).await;
    let days = |start_day, end_day| StatFilter { start_day, end_day, ..StatFilter::default() };
    let count = async |filter: StatFilter| found(&store, Some(7), &filter, ALL).await.1;
    assert_eq!(count(days(day("2026-11-21"), day("2026-11-21"))).await, 3);
    assert_eq!(count(days(day("2026-11-21"), None)).await, 4);
    assert_eq!(count(days(None, day("2026-11-20"))).await, 1);
    assert_eq!(count(days(day("2026-11-22"), day("2026-11-20"))).await, 0);
    assert_eq!(count(days(day("0001-01-01"), day("9999-12-31"))).await, 5);
});

backend_test!(filters_are_taken_to_the_letter_and_all_must_hold, async |db: &TestDb| {
    let store = open(db).await;
    let by = |creator: &str, model_name: &str| StatFilter {
        creator: Some(creator.into()),
        model_name: Some(model_name.into()),
        ..StatFilter::default()
    };
    let count = async |filter: StatFilter| found(&store, None, &filter, ALL).await.1;
    assert_eq!(count(by("", "")).await, 7);
    assert_eq!(count(by("nn", "")).await, 4);
    assert_eq!(count(by("A", "")).await, 1, "case counts");
    assert_eq!(count(by("_", "")).await, 1);
    assert_eq!(count(by("", "%")).await, 1);
    assert_eq!(count(by("bob", "r")).await, 2);
    assert_eq!(count(by("ann", "ocr")).await, 0);
    assert_eq!(count(by("\0", "")).await, 0);
});
