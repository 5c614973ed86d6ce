//! Contract §6: filters, order and days of the statistics.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::{Kind, TestDb},
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

/// Rows as the worker would have counted them: (day, tenant, creator, model, calls).
async fn counted(db: &TestDb, rows: &[(&str, i64, &str, &str, i64)]) {
    let now = if db.kind() == Kind::Postgres { "now()" } else { "1700000000000000" };
    let mut raw = Raw::connect(db).await;
    for (day, tenant, creator, model, calls) in rows {
        raw.execute(format!(
            "INSERT INTO asynch_model_stat (day, tenant_id, creator, model_name, request_count, success_count,
                 failure_count, total_seconds, result_bytes, created_at, updated_at)
             VALUES ('{day}', {tenant}, '{creator}', '{model}', {calls}, {calls}, 0, 1.5, 10, {now}, {now})"
        ))
        .await;
    }
}

/// `day/creator/model` of each row, in order, and the total.
async fn list(api: &Api, ask: Value) -> (Vec<String>, i64) {
    let data = api.post("/stat/listModelStat", &ask).await.data();
    let word = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = data["list"].as_array().unwrap().iter();
    let names =
        rows.map(|row| format!("{}/{}/{}", &word(row, "day")[5..], word(row, "creator"), word(row, "modelName")));
    (names.collect(), data["total"].as_i64().unwrap())
}

backend_test!(statistics_are_filtered_and_the_newest_day_and_largest_count_come_first, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let ann = app.api.as_tenant(7, "ann");
    counted(
        db,
        &[
            ("2026-02-01", 7, "ann", "tts", 9),
            ("2026-02-02", 7, "ann", "tts", 1),
            ("2026-02-02", 7, "bob", "tts", 5),
            ("2026-02-03", 7, "ann", "ocr", 2),
            ("2026-02-03", 8, "ann", "tts", 100),
        ],
    )
    .await;
    let rows = |rows: &[&str]| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>();
    let all = rows(&["02-03/ann/ocr", "02-02/bob/tts", "02-02/ann/tts", "02-01/ann/tts"]);
    assert_eq!(list(&ann, json!({})).await, (all.clone(), 4));
    assert_eq!(list(&ann, json!({ "page": { "pageNum": 2, "pageSize": 2 } })).await, (all[2..].to_vec(), 4));
    assert_eq!(list(&ann, json!({ "startDay": "2026-02-02" })).await, (all[..3].to_vec(), 3));
    assert_eq!(list(&ann, json!({ "endDay": "2026-02-02" })).await, (all[1..].to_vec(), 3));
    let one = json!({ "startDay": "2026-02-02", "endDay": "2026-02-02", "creator": "o" });
    assert_eq!(list(&ann, one).await, (rows(&["02-02/bob/tts"]), 1));
    assert_eq!(list(&ann, json!({ "modelName": "c" })).await, (rows(&["02-03/ann/ocr"]), 1));
    assert_eq!(list(&ann, json!({ "creator": "%" })).await.1, 0);
    assert_eq!(list(&app.api, json!({ "tenantId": 8 })).await, (rows(&["02-03/ann/tts"]), 1));
    let row = ann.post("/stat/listModelStat", &json!({})).await.data()["list"][0].clone();
    let fields: Vec<&String> = row.as_object().unwrap().keys().collect();
    let expected = [
        "day",
        "tenantId",
        "creator",
        "modelName",
        "requestCount",
        "successCount",
        "failureCount",
        "totalSeconds",
        "resultBytes",
        "createdAt",
        "updatedAt",
    ];
    assert_eq!(fields, expected);
    for (ask, field) in [
        (json!({ "startDay": "2026-02-30" }), "startDay"),
        (json!({ "endDay": "2026-2-3" }), "endDay"),
        (json!({ "startDay": 20260203 }), "startDay"),
        (json!({ "startDay": "2026-02-03", "endDay": "2026-02-02" }), "endDay"),
    ] {
        let answer = ann.post("/stat/listModelStat", &ask).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field);
    }
    app.stop().await;
});

backend_test!(a_day_begins_where_the_configured_zone_says, async |db: &TestDb| {
    let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
    // 26 hours apart, so that it is never the same day in both.
    for (name, zone) in [("east", chrono_tz::Pacific::Kiritimati), ("west", chrono_tz::Etc::GMTPlus12)] {
        let today = || chrono::Utc::now().with_timezone(&zone).date_naive().to_string();
        let app = TestApp::with(db, &[("stat.timezone", zone.name())]).await;
        app.api.create_model(name, &model.url, &json!({})).await;
        let before = today();
        let task = app.api.create_task(name, &Value::Null).await;
        app.api.until(&task, &[2]).await;
        let row = app.api.post("/stat/listModelStat", &json!({ "modelName": name })).await.data()["list"][0].clone();
        assert!([before, today()].contains(&row["day"].as_str().unwrap().to_owned()), "{row}");
        app.stop().await;
    }
});
