use std::time::Duration;

use chrono::TimeDelta;
use model_asynch::{
    alert::{Alert, AlertId, Cause, Channel, News, Severity, Subject, course::Step},
    clock,
    secrets::Vault,
    store::{Page, Store},
    task::TenantId,
};

use crate::{
    backend_test,
    support::{backend::TestDb, eventually::until, raw::Raw},
};

const ALL: Page = Page { offset: 0, limit: 100 };
const BOTH: [Channel; 2] = [Channel::Email, Channel::Webhook];

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

/// One that has begun.
fn alert(rule: &str, subject: Subject) -> Alert {
    let now = clock::now();
    Alert {
        id: AlertId(0),
        version: 0,
        rule: rule.into(),
        subject,
        severity: Severity::Warning,
        since: now,
        began_at: Some(now),
        clear_since: None,
        told_at: Some(now),
        ended_at: None,
        causes: vec![Cause::Pending { tasks: 9, above: 1 }, Cause::DependencyDown],
    }
}

fn lane(tenant: i64) -> Subject {
    Subject::Lane(TenantId(tenant), "a/ö'\"".into())
}

/// Opens an alert, with news for both channels, and reads it back.
async fn opened(store: &Store, new: Alert) -> Alert {
    let news = new.began_at.is_some().then_some(News::Began);
    store.apply_alerts(&[Step::Open(new.clone(), news)], &BOTH).await.unwrap();
    let mut open = store.open_alerts().await.unwrap();
    open.retain(|alert| alert.rule == new.rule && alert.subject == new.subject);
    assert_eq!(open.len(), 1);
    open.remove(0)
}

backend_test!(an_alert_reads_back_as_it_was_written, async |db: &TestDb| {
    let store = open(db).await;
    let written = alert("r", lane(7));
    let read = opened(&store, written.clone()).await;
    assert!(read.id.0 > 0);
    assert_eq!(read, Alert { id: read.id, ..written });
});

backend_test!(a_rule_and_a_subject_have_one_open_alert, async |db: &TestDb| {
    let store = open(db).await;
    let first = opened(&store, alert("r", lane(7))).await;
    let again = Step::Open(alert("r", lane(7)), Some(News::Began));
    assert!(
        store.apply_alerts(std::slice::from_ref(&again), &BOTH).await.unwrap().is_empty(),
        "whoever comes second tells nothing"
    );
    let end = Alert { ended_at: Some(clock::now()), ..first };
    assert_eq!(store.apply_alerts(&[Step::Change(end, Some(News::Ended))], &[]).await.unwrap().len(), 1);
    assert_eq!(store.apply_alerts(&[again], &[]).await.unwrap().len(), 1, "it begins again");
    assert_eq!(store.list_alerts(None, None, ALL).await.unwrap().total, 2);
});

backend_test!(of_two_who_change_an_alert_one_does, async |db: &TestDb| {
    let store = open(db).await;
    let read = opened(&store, alert("r", lane(7))).await;
    let end = || Step::Change(Alert { ended_at: Some(clock::now()), ..read.clone() }, Some(News::Ended));
    let clear = Step::Change(Alert { clear_since: Some(clock::now()), ..read.clone() }, None);
    assert!(store.apply_alerts(&[clear], &BOTH).await.unwrap().is_empty(), "done, and no news");
    assert!(store.apply_alerts(&[end()], &BOTH).await.unwrap().is_empty(), "it was changed since");
    let read = store.open_alerts().await.unwrap().remove(0);
    assert!(read.version == 1 && read.clear_since.is_some());
    store.apply_alerts(&[Step::Forget(read.clone())], &[]).await.unwrap();
    assert_eq!(store.open_alerts().await.unwrap().len(), 1, "what has begun is not forgotten");
    let pending = opened(&store, Alert { began_at: None, told_at: None, ..alert("r", lane(8)) }).await;
    store.apply_alerts(&[Step::Forget(pending)], &[]).await.unwrap();
    assert_eq!(store.open_alerts().await.unwrap().len(), 1);
    assert_eq!(store.list_alerts(None, Some(true), ALL).await.unwrap().total, 1);
});

backend_test!(news_are_taken_once_until_they_are_due_again, async |db: &TestDb| {
    let store = open(db).await;
    let read = opened(&store, alert("r", lane(7))).await;
    let claim = async |hold: Duration| store.claim_news(Channel::Email, hold, 10).await.unwrap();
    let first = claim(Duration::from_secs(60)).await;
    assert_eq!((first.len(), first[0].tries, first[0].notice.news), (1, 1, News::Began));
    assert_eq!((first[0].notice.alert_id, first[0].notice.causes.clone()), (read.id.0, read.causes.clone()));
    assert!(claim(Duration::ZERO).await.is_empty(), "somebody has it");
    store.news_failed(&[(first[0].id, clock::now())], "refused").await.unwrap();
    let undelivered = store.list_alerts(None, None, ALL).await.unwrap().list.remove(0).undelivered;
    let shown: Vec<_> = undelivered.iter().map(|news| (news.channel.as_str(), news.error.as_str())).collect();
    assert_eq!(shown, [("email", "refused"), ("webhook", "")]);
    until("it to be due", async || claim(Duration::ZERO).await.first().is_some_and(|news| news.tries >= 2)).await;
    store.news_sent(&[first[0].id]).await.unwrap();
    assert!(claim(Duration::ZERO).await.is_empty());
    assert_eq!(store.claim_news(Channel::Webhook, Duration::ZERO, 10).await.unwrap().len(), 1);
});

backend_test!(reminders_do_not_pile_up_while_a_channel_is_away, async |db: &TestDb| {
    let store = open(db).await;
    opened(&store, alert("r", lane(7))).await;
    let mails = async || store.list_alerts(None, None, ALL).await.unwrap().list.remove(0).undelivered.len();
    for _ in 0..3 {
        let read = store.open_alerts().await.unwrap().remove(0);
        store.apply_alerts(&[Step::Change(read, Some(News::Reminded))], &BOTH).await.unwrap();
    }
    assert_eq!(mails().await, 2, "the beginning is still to be told");
    for channel in BOTH {
        let claimed = store.claim_news(channel, Duration::ZERO, 10).await.unwrap();
        store.news_sent(&[claimed[0].id]).await.unwrap();
    }
    for _ in 0..3 {
        let read = store.open_alerts().await.unwrap().remove(0);
        store.apply_alerts(&[Step::Change(read, Some(News::Reminded))], &BOTH).await.unwrap();
    }
    assert_eq!(mails().await, 2, "one reminder on each channel");
});

backend_test!(alerts_are_listed_by_tenant_and_by_whether_they_last, async |db: &TestDb| {
    let store = open(db).await;
    for subject in [lane(7), lane(8), Subject::Tenant(TenantId(7)), Subject::All] {
        opened(&store, alert("r", subject)).await;
    }
    opened(&store, Alert { began_at: None, told_at: None, ..alert("pending", lane(7)) }).await;
    let seven = store.list_alerts(Some(TenantId(7)), None, ALL).await.unwrap();
    let subjects: Vec<Subject> = seven.list.into_iter().map(|listed| listed.alert.subject).collect();
    assert_eq!((seven.total, subjects), (2, vec![Subject::Tenant(TenantId(7)), lane(7)]), "newest first");
    let all = store.open_alerts().await.unwrap();
    let mine = all.into_iter().find(|alert| alert.subject == lane(7) && alert.rule == "r").unwrap();
    store.apply_alerts(&[Step::Change(Alert { ended_at: Some(clock::now()), ..mine }, None)], &[]).await.unwrap();
    let total = async |open| store.list_alerts(None, open, ALL).await.unwrap().total;
    assert_eq!((total(None).await, total(Some(true)).await, total(Some(false)).await), (4, 3, 1));
    let page = store.list_alerts(None, None, Page { offset: 3, limit: 2 }).await.unwrap();
    assert_eq!((page.list.len(), page.total), (1, 4));
});

backend_test!(alerts_of_rules_that_are_gone_end_without_a_word, async |db: &TestDb| {
    let store = open(db).await;
    opened(&store, alert("kept", lane(7))).await;
    opened(&store, alert("gone", lane(7))).await;
    opened(&store, Alert { began_at: None, told_at: None, ..alert("gone", lane(8)) }).await;
    store.alerts_seen(&["kept"], clock::now() - TimeDelta::hours(1)).await.unwrap();
    assert_eq!(store.open_alerts().await.unwrap().len(), 3, "another node may know the rule");
    let moment = clock::now() + TimeDelta::microseconds(1);
    until("a moment to pass", async || clock::now() > moment).await;
    store.alerts_seen(&["kept"], moment).await.unwrap();
    let open: Vec<String> = store.open_alerts().await.unwrap().into_iter().map(|alert| alert.rule).collect();
    assert_eq!(open, ["kept"]);
    assert_eq!(store.list_alerts(None, Some(false), ALL).await.unwrap().total, 1);
    assert_eq!(store.purge_alerts(clock::now() - TimeDelta::days(1)).await.unwrap(), 0);
    assert_eq!(store.purge_alerts(clock::now() + TimeDelta::days(1)).await.unwrap(), 1);
    assert_eq!(store.open_alerts().await.unwrap().len(), 1);
});

backend_test!(a_node_that_died_is_remembered_for_a_day, async |db: &TestDb| {
    let store = open(db).await;
    let (dead, live) = (clock::node_id(), clock::node_id());
    store.register_node(dead, "dead", Duration::ZERO).await.unwrap();
    store.register_node(live, "live", Duration::from_secs(60)).await.unwrap();
    let (watcher, short) = (clock::node_id(), Duration::from_secs(1));
    until("the watch to be old enough", async || store.hold_watch(watcher, "w", short, false).await.unwrap()).await;
    until("its burial", async || {
        store.hold_watch(watcher, "w", short, false).await.unwrap();
        store.bury_dead_nodes(watcher, short).await.unwrap() == [dead]
    })
    .await;
    let lost = store.lost_nodes().await.unwrap();
    assert_eq!((lost.len(), lost[0].name.as_str()), (1, "dead"));
    assert!(lost[0].last_seen < lost[0].lost_at);
    let names: Vec<String> = store.live_nodes().await.unwrap().into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["live"]);
    store.bury_every_node().await.unwrap();
    let names: Vec<String> = store.lost_nodes().await.unwrap().into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["dead", "live"]);
    let mut raw = Raw::connect(db).await;
    raw.execute(match db.kind() {
        crate::support::backend::Kind::Postgres => {
            "UPDATE asynch_lost_node SET lost_at = lost_at - interval '25 hours'"
        }
        crate::support::backend::Kind::Sqlite => "UPDATE asynch_lost_node SET lost_at = lost_at - 90000000000",
    })
    .await;
    assert!(store.lost_nodes().await.unwrap().is_empty());
    store.bury_every_node().await.unwrap();
    assert!(raw.texts("SELECT name FROM asynch_lost_node").await.is_empty(), "nothing is kept for ever");
});
