//! Wake-ups between nodes, over Redis PUBLISH and SUBSCRIBE.
//!
//! A message is `sender lane,lane:r,…`: who says it, so that nobody wakes itself twice, and lanes as
//! `model:tenant`, with `:r` where the cursor has to go back.

use std::{fmt::Write, time::Duration};

use futures::StreamExt;
use redis::{AsyncConnectionConfig, Client, RedisError, aio::MultiplexedConnection};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock, config,
    task::{Lane, ModelId, TenantId},
    wake::{Tray, WakeUp},
};

/// Longest wait for any answer of Redis, and for the last words at the end.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Lanes in one message: some 15 kB at most.
const LANES_PER_MESSAGE: usize = 500;

/// First and longest pause before Redis is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a listener asks whether its connection is alive: without it, one whose other end
/// vanished silently would be deaf for ever.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The bus to the other nodes.
pub(super) struct RedisWake {
    client: Client,
    channel: String,
    /// This process, as the sender of messages.
    sender: String,
    outbox: Tray,
}

/// One direction's trouble with Redis, so that it is logged when it begins and when it is over.
#[derive(Default)]
struct Outage {
    failures: u32,
}

impl RedisWake {
    pub(super) fn open(config: &config::Redis) -> Result<RedisWake, String> {
        let client = Client::open(config.url.as_str())
            .map_err(|error| format!("cannot be read, it should look like redis://host:6379/0: {error}"))?;
        let channel = format!("{}wake", config.key_prefix);
        Ok(RedisWake { client, channel, sender: clock::token(), outbox: Tray::default() })
    }

    pub(super) fn send(&self, wake_ups: impl IntoIterator<Item = WakeUp>) {
        self.outbox.put(wake_ups);
    }

    /// Publishes the outbox, and fills the inbox of a node that has one.
    pub(super) async fn run(&self, inbox: Option<&Tray>, stop: CancellationToken) {
        let listening = async {
            if let Some(inbox) = inbox {
                self.listen(inbox, &stop).await;
            }
        };
        tokio::join!(self.publish(&stop), listening);
    }

    /// One message after the other: what is sent while one is on its way goes into the next. What
    /// cannot be published is dropped.
    async fn publish(&self, stop: &CancellationToken) {
        let mut line = None;
        let mut outage = Outage::default();
        loop {
            let wake_ups = tokio::select! {
                () = stop.cancelled() => break,
                wake_ups = self.outbox.next() => wake_ups,
            };
            match in_time(self.tell(&mut line, &wake_ups)).await {
                Ok(()) if outage.over() => info!("wake-ups reach the other nodes again"),
                Ok(()) => {}
                Err(error) => {
                    if outage.failed() {
                        warn!(error, "wake-ups cannot be published: the other nodes have to poll until redis is back");
                    }
                    outage.pause(stop).await;
                }
            }
        }
        let last = self.outbox.take();
        if !last.is_empty() {
            // A wake-up that gets lost costs time only.
            in_time(self.tell(&mut line, &last)).await.ok();
        }
    }

    /// Publishes over the line, or over a new one where the old one is broken: Redis may well have
    /// been restarted since it was last used. Given up half way, it leaves no line behind.
    async fn tell(&self, line: &mut Option<MultiplexedConnection>, wake_ups: &[WakeUp]) -> Result<(), RedisError> {
        let mut calls = redis::pipe();
        for some in wake_ups.chunks(LANES_PER_MESSAGE) {
            calls.cmd("PUBLISH").arg(&self.channel).arg(written(&self.sender, some)).ignore();
        }
        if let Some(mut old) = line.take()
            && calls.query_async::<()>(&mut old).await.is_ok()
        {
            *line = Some(old);
            return Ok(());
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        calls.query_async::<()>(&mut new).await?;
        *line = Some(new);
        Ok(())
    }

    /// Subscribes, again and again. After a gap nothing has to be made up for: workers look for
    /// themselves.
    async fn listen(&self, inbox: &Tray, stop: &CancellationToken) {
        let mut outage = Outage::default();
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return,
                error = self.hear(inbox, &mut outage) => error,
            };
            if outage.failed() {
                warn!(error, "wake-ups of other nodes cannot be heard: polling for work until redis is back");
            }
            outage.pause(stop).await;
        }
    }

    /// Hears until the connection breaks, and says how it did.
    async fn hear(&self, inbox: &Tray, outage: &mut Outage) -> String {
        let (mut sink, mut messages) = match in_time(self.subscribed()).await {
            Ok(subscription) => subscription.split(),
            Err(error) => return error,
        };
        if outage.over() {
            info!("wake-ups of other nodes are heard again");
        }
        let mut pings = tokio::time::interval(PING_EVERY);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => inbox.put(read(message.get_payload_bytes(), &self.sender)),
                    None => return "the connection was closed".to_owned(),
                },
                _ = pings.tick() => if let Err(error) = in_time(sink.ping::<redis::Value>()).await {
                    return error;
                },
            }
        }
    }

    async fn subscribed(&self) -> Result<redis::aio::PubSub, RedisError> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(&self.channel).await?;
        Ok(subscription)
    }
}

impl Outage {
    /// True for the failure that begins it.
    fn failed(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// True where there was one.
    fn over(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Waits longer after each failure, so that a Redis that comes back is not overrun.
    async fn pause(&self, stop: &CancellationToken) {
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(2u32.saturating_pow(self.failures.saturating_sub(1)));
        let pause = clock::jittered(pause.min(longest)).min(longest);
        // Either way it is over.
        timeout(pause, stop.cancelled()).await.ok();
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, String> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {CALL_TIMEOUT:?}")),
    }
}

fn written(sender: &str, wake_ups: &[WakeUp]) -> String {
    let mut message = sender.to_owned();
    for (n, WakeUp { lane, rewind }) in wake_ups.iter().enumerate() {
        let before = if n == 0 { ' ' } else { ',' };
        let after = if *rewind { ":r" } else { "" };
        // Writing to a string cannot fail.
        write!(message, "{before}{lane}{after}").ok();
    }
    message
}

/// What others say. Anything that does not look like a wake-up is passed over.
fn read<'a>(message: &'a [u8], own: &str) -> impl Iterator<Item = WakeUp> + use<'a> {
    let (sender, entries) = str::from_utf8(message).ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    let entries = if sender == own { "" } else { entries };
    entries.split(',').filter_map(read_entry)
}

fn read_entry(entry: &str) -> Option<WakeUp> {
    let mut parts = entry.split(':');
    let model = ModelId(parts.next()?.parse().ok()?);
    let tenant = TenantId(parts.next()?.parse().ok()?);
    let rewind = match (parts.next(), parts.next()) {
        (None, None) => false,
        (Some("r"), None) => true,
        _ => return None,
    };
    Some(WakeUp { lane: Lane { model, tenant }, rewind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake_up(model: i64, tenant: i64, rewind: bool) -> WakeUp {
        WakeUp { lane: Lane { model: ModelId(model), tenant: TenantId(tenant) }, rewind }
    }

    fn heard(message: &str) -> Vec<WakeUp> {
        read(message.as_bytes(), "me").collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let wake_ups = [wake_up(1, 2, false), wake_up(3, -4, true), wake_up(i64::MAX, i64::MIN, false)];
        let message = written("you", &wake_ups);
        assert!(message.starts_with("you 1:2,3:-4:r,"), "{message}");
        assert_eq!(heard(&message), wake_ups);
    }

    #[test]
    fn a_process_does_not_hear_itself() {
        assert_eq!(heard(&written("me", &[wake_up(1, 2, false)])), []);
    }

    #[test]
    fn malformed_entries_are_passed_over() {
        for message in ["", "you", "you ", "you ,,", "you 1", "you 1:", "you a:b", "you 1:2:x", "you 1:2:r:", "1:2"] {
            assert_eq!(heard(message), [], "{message:?}");
        }
        assert_eq!(heard("you x,1:2,99999999999999999999:1,3:4:r"), [wake_up(1, 2, false), wake_up(3, 4, true)]);
        assert_eq!(read(b"you \xff1:2", "me").count(), 0);
    }

    #[test]
    fn an_outage_begins_once_and_is_over_once() {
        let mut outage = Outage::default();
        assert!(!outage.over());
        assert_eq!([outage.failed(), outage.failed()], [true, false]);
        assert_eq!([outage.over(), outage.over()], [true, false]);
    }
}
