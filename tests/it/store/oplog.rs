use bytes::Bytes;
use model_asynch::{
    clock,
    oplog::{self, OpLog, OpRecord},
    secrets::Vault,
    store::{Page, Store, oplog::OpLogFilter},
    task::TenantId,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backend_test,
    support::{
        backend::{Kind, TestDb},
        raw::Raw,
    },
};

const TENANT: TenantId = TenantId(7);
const ALL: Page = Page { offset: 0, limit: 20_000 };

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

fn row(biz_name: &str) -> OpLog {
    OpLog {
        id: 0,
        tenant: TENANT,
        creator: "ann".into(),
        created_at: clock::now(),
        ip: "10.1.2.3".into(),
        user_agent: "curl/8 日本".into(),
        api_path: "/task/createTask".into(),
        http_method: "POST".into(),
        biz_name: biz_name.into(),
        model_name: "tts".into(),
        task_id: "0197".into(),
        op_type: "createTask".into(),
        success: true,
        error_msg: String::new(),
        cost_ms: 12,
        request_payload: Some(r#"{"b":1,"a":"\u0000 🙂"}"#.into()),
        response_payload: None,
    }
}

fn record(biz_name: &str, request: &str) -> OpRecord {
    let row = OpLog { request_payload: None, ..row(biz_name) };
    OpRecord { row, request: Bytes::copy_from_slice(request.as_bytes()), response: Bytes::new() }
}

async fn listed(store: &Store, filter: OpLogFilter, page: Page) -> (Vec<OpLog>, i64) {
    let listing = store.list_op_logs(TENANT, &filter, page).await.unwrap();
    (listing.list, listing.total)
}

async fn biz_names(store: &Store, filter: OpLogFilter, page: Page) -> Vec<String> {
    listed(store, filter, page).await.0.into_iter().map(|row| row.biz_name).collect()
}

fn stopped() -> CancellationToken {
    let stop = CancellationToken::new();
    stop.cancel();
    stop
}

/// From now on the database refuses rows whose `biz_name` is `refused`.
async fn refuse_some(db: &TestDb) {
    let law = match db.kind() {
        Kind::Postgres => "ALTER TABLE asynch_op_log ADD CHECK (biz_name <> 'refused')",
        Kind::Sqlite => {
            "CREATE TRIGGER refuse BEFORE INSERT ON asynch_op_log WHEN NEW.biz_name = 'refused' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
    };
    Raw::connect(db).await.execute(law).await;
}

backend_test!(a_row_is_read_back_as_it_was_written, async |db: &TestDb| {
    let store = open(db).await;
    let written = OpLog { success: false, error_msg: "queue full".into(), ..row("biz") };
    store.insert_op_logs(std::slice::from_ref(&written)).await.unwrap();
    let (rows, total) = listed(&store, OpLogFilter::default(), ALL).await;
    let expected = OpLog { id: rows[0].id, ..written };
    assert_eq!(format!("{:?}", rows[0]), format!("{expected:?}"));
    assert!(rows[0].id > 0 && total == 1);
});

backend_test!(no_text_of_a_row_can_pass_for_anything_else, async |db: &TestDb| {
    let store = open(db).await;
    let texts = ["\\.", "\\N", "a\tb\nc\r\n", "\"'\\\\", "NULL", "{}", "\u{7f}\u{1}", "\u{10ffff}🙂", " ", ""];
    let written: Vec<OpLog> = texts
        .iter()
        .map(|text| OpLog {
            creator: (*text).into(),
            error_msg: text.repeat(5000),
            request_payload: Some(serde_json::to_string(text).unwrap()),
            response_payload: Some(" null\n".into()),
            ..row(text)
        })
        .collect();
    store.insert_op_logs(&written).await.unwrap();
    let (mut rows, _) = listed(&store, OpLogFilter::default(), ALL).await;
    rows.reverse();
    assert!(rows.is_sorted_by(|a, b| a.id < b.id), "in the order of the batch");
    let unnumbered = |rows: Vec<OpLog>| rows.into_iter().map(|row| format!("{:?}", OpLog { id: 0, ..row }));
    assert!(unnumbered(rows).eq(unnumbered(written)));
});

backend_test!(rows_are_listed_newest_first_page_by_page, async |db: &TestDb| {
    let store = open(db).await;
    let rows: Vec<OpLog> = (0..300).map(|n| row(&n.to_string())).collect();
    store.insert_op_logs(&rows).await.unwrap();
    store.insert_op_logs(&[row("last"), OpLog { tenant: TenantId(8), ..row("foreign") }]).await.unwrap();
    store.insert_op_logs(&[]).await.unwrap();

    let page = |offset, limit| biz_names(&store, OpLogFilter::default(), Page { offset, limit });
    assert_eq!(page(0, 3).await, ["last", "299", "298"]);
    assert_eq!(page(299, 3).await, ["1", "0"]);
    assert_eq!(listed(&store, OpLogFilter::default(), Page { offset: 999, limit: 3 }).await.1, 301);
});

backend_test!(all_filters_must_hold, async |db: &TestDb| {
    let store = open(db).await;
    let rows = [
        OpLog { op_type: "createModel".into(), ..row("a") },
        OpLog { model_name: "TTS".into(), ..row("b") },
        OpLog { task_id: "0198".into(), ..row("c") },
        OpLog { success: false, ..row("d") },
    ];
    store.insert_op_logs(&rows).await.unwrap();
    let found = async |filter: OpLogFilter| biz_names(&store, filter, ALL).await.concat();
    let any = OpLogFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found(any()).await, "dcba");
    assert_eq!(found(OpLogFilter { op_type: text("createModel"), ..any() }).await, "a");
    assert_eq!(found(OpLogFilter { model_name: text("tts"), ..any() }).await, "dca", "case counts");
    assert_eq!(found(OpLogFilter { task_id: text("0198"), ..any() }).await, "c");
    assert_eq!(found(OpLogFilter { success: Some(false), ..any() }).await, "d");
    assert_eq!(found(OpLogFilter { success: Some(true), task_id: text("0197"), ..any() }).await, "ba");
    assert_eq!(found(OpLogFilter { task_id: text("\0"), ..any() }).await, "");
});

backend_test!(a_batch_is_written_whole_or_not_at_all, async |db: &TestDb| {
    let store = open(db).await;
    refuse_some(db).await;
    store.insert_op_logs(&[row("good"), row("refused")]).await.unwrap_err();
    assert_eq!(listed(&store, OpLogFilter::default(), ALL).await.1, 0);
    store.insert_op_logs(&[row("good")]).await.unwrap();
});

backend_test!(what_was_handed_in_before_the_stop_is_written, async |db: &TestDb| {
    let store = open(db).await;
    let (logger, writer) = oplog::channel();
    for n in 0..700 {
        logger.record(record(&n.to_string(), r#"{"apiKey":"A:hunter2","x":{"password":"hunter2"}}"#));
    }
    writer.run(store.clone(), stopped()).await;

    let (rows, total) = listed(&store, OpLogFilter::default(), ALL).await;
    assert_eq!((total, logger.dropped()), (700, 0));
    assert!(rows.iter().rev().map(|row| row.biz_name.parse::<i32>().unwrap()).eq(0..700), "in the order of the calls");
    let expected = r#"{"apiKey":"A:****","x":{"password":"****"}}"#;
    assert!(rows.iter().all(|row| row.request_payload.as_deref() == Some(expected) && row.response_payload.is_none()));

    logger.record(record("late", "{}"));
    assert_eq!(logger.dropped(), 1, "after the stop there is nobody to write it");
});

backend_test!(rows_are_written_while_the_service_runs, async |db: &TestDb| {
    let store = open(db).await;
    let (logger, writer) = oplog::channel();
    let stop = CancellationToken::new();
    let caller = async {
        for n in 0..3 {
            logger.record(record(&n.to_string(), ""));
            while listed(&store, OpLogFilter::default(), ALL).await.1 <= n {}
        }
        stop.cancel();
    };
    tokio::join!(writer.run(store.clone(), stop.clone()), caller);
    assert_eq!(logger.dropped(), 0);
});

backend_test!(whatever_a_call_carries_its_row_is_taken, async |db: &TestDb| {
    let store = open(db).await;
    let (logger, writer) = oplog::channel();
    let odd = "日\0本".repeat(10_000);
    let row = OpLog {
        creator: odd.clone(),
        ip: odd.clone(),
        user_agent: odd.clone(),
        api_path: odd.clone(),
        http_method: odd.clone(),
        biz_name: odd.clone(),
        model_name: odd.clone(),
        task_id: odd.clone(),
        op_type: odd.clone(),
        error_msg: odd.clone(),
        cost_ms: i64::MAX,
        ..row("")
    };
    logger.record(OpRecord { row, ..record("", &odd) });
    for body in
        [r#"{"a":"\u0000"}"#, r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#, "\0", "[[[", "null", "1e308", "\"\u{10ffff}\""]
    {
        logger.record(record("body", body));
    }
    writer.run(store.clone(), stopped()).await;
    assert_eq!((listed(&store, OpLogFilter::default(), ALL).await.1, logger.dropped()), (9, 0));
});

backend_test!(a_row_that_the_database_refuses_costs_only_itself, async |db: &TestDb| {
    let store = open(db).await;
    refuse_some(db).await;
    let (logger, writer) = oplog::channel();
    for name in ["a", "refused", "b", "c", "refused"] {
        logger.record(record(name, "{}"));
    }
    writer.run(store.clone(), stopped()).await;
    assert_eq!(biz_names(&store, OpLogFilter::default(), ALL).await, ["c", "b", "a"]);
    assert_eq!(logger.dropped(), 2);
});

backend_test!(without_a_database_the_stop_takes_seconds_and_the_loss_is_counted, async |db: &TestDb| {
    let store = open(db).await;
    store.close().await;
    let (logger, writer) = oplog::channel();
    for _ in 0..600 {
        logger.record(record("lost", "{}"));
    }
    let begun = clock::tick();
    writer.run(store, stopped()).await;
    assert_eq!(logger.dropped(), 600);
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
});

#[tokio::test]
async fn a_batch_that_is_given_up_leaves_nothing_behind_it() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let store = open(&db).await;
    store.insert_op_logs(&[row("before")]).await.unwrap();
    let mut raw = Raw::connect(&db).await;
    for n in 0..30 {
        raw.execute("BEGIN").await;
        raw.execute("LOCK TABLE asynch_op_log").await;
        let rows = [row("given up")];
        let mut blocked = Box::pin(store.insert_op_logs(&rows));
        // However far it has come: the lock keeps it from its end.
        for _ in 0..n {
            assert!(futures::poll!(&mut blocked).is_pending());
            raw.execute("SELECT 1").await;
        }
        drop(blocked);
        raw.execute("ROLLBACK").await;
        store.insert_op_logs(&[row("after")]).await.unwrap();
    }
    let names = biz_names(&store, OpLogFilter::default(), ALL).await;
    assert_eq!(names.concat(), format!("{}before", "after".repeat(30)));
}

#[tokio::test]
async fn rows_outlive_connections_that_the_server_cut() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let store = open(&db).await;
    let (logger, writer) = oplog::channel();
    let others = "pid <> pg_backend_pid() AND datname = current_database()";
    let cut = format!("SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE {others}");
    assert!(!Raw::connect(&db).await.texts(cut).await.is_empty());
    logger.record(record("kept", "{}"));
    writer.run(store.clone(), stopped()).await;
    assert_eq!(biz_names(&store, OpLogFilter::default(), ALL).await, ["kept"]);
    assert_eq!(logger.dropped(), 0);
}
