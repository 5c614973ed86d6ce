//! Where a task's life stands in a distributed trace: W3C Trace Context, version 00.
//!
//! The row carries the span that created the task, so that whoever works on it, on whichever node,
//! goes on in the same trace. A task that nobody traced has a trace of its own, whose id is the
//! task's id: it is found without asking anyone. The ids of an attempt's own spans follow from task
//! and attempt: a node that takes an attempt over names the spans as the one did that began it.

use std::fmt;

use super::{Attempt, TaskId};

/// Names a span across processes: what a `traceparent` header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace: u128,
    /// The span; 0 only for a trace that has none yet.
    pub span: u64,
    /// Whether its spans are recorded.
    pub sampled: bool,
}

/// The spans of an attempt that others have to be able to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The attempt as a whole.
    Process = 1,
    /// Its call of the model, which the model is told of.
    Call = 2,
}

impl TraceContext {
    /// Reads a header of version 00 with ids that are not all zero (W3C Trace Context §3.2); `None`
    /// for anything else, which is to be ignored, as the recommendation asks.
    pub fn parse(header: &str) -> Option<TraceContext> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let well_formed = version == "00"
            && parts.next().is_none()
            && [(trace, 32), (span, 16), (flags, 2)].iter().all(|(part, length)| is_hex(part, *length));
        if !well_formed {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(TraceContext { trace, span, sampled: flags & 1 == 1 })
    }

    /// The trace of a task that nobody traced before: named like the task, with no span in it yet.
    pub fn of_its_own(task: TaskId, sampled: bool) -> TraceContext {
        TraceContext { trace: task.0.as_u128(), span: 0, sampled }
    }

    /// The span of a step of an attempt in this trace.
    pub fn step(self, task: TaskId, attempt: Attempt, step: Step) -> TraceContext {
        let (high, low) = task.0.as_u64_pair();
        let seed = u64::from(attempt.0.unsigned_abs()) << 8 | step as u64;
        TraceContext { span: mixed(low ^ mixed(high ^ mixed(seed))).max(1), ..self }
    }
}

/// As a header is written.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The id of the trace in a stored `traceparent`, for log lines; `None` where there is none.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.get(3..35)
}

/// Spreads a number over all 64 bits; different numbers stay different (the finalizer of `SplitMix64`).
pub fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn is_hex(part: &str, length: usize) -> bool {
    part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_well_formed_trace_context_is_read() {
        let context = TraceContext::parse(SENT).unwrap();
        assert_eq!((context.to_string().as_str(), context.sampled), (SENT, true));
        assert_eq!(trace_id(SENT), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(trace_id(""), None);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_step_of_every_attempt_is_a_span_of_its_own_and_anyone_finds_the_same() {
        let task = TaskId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001));
        let own = TraceContext::of_its_own(task, true);
        let span = |attempt, step| own.step(task, Attempt(attempt), step);
        assert_eq!(span(1, Step::Call), span(1, Step::Call));
        assert_ne!(span(1, Step::Call).span, span(1, Step::Process).span);
        assert_ne!(span(1, Step::Call).span, span(2, Step::Call).span);
        assert!(span(1, Step::Call).to_string().starts_with("00-01970000000070008000000000000001-"));
    }

    proptest! {
        #[test]
        fn what_is_read_is_sane_and_written_back_alike(text in prop_oneof![
            any::<String>(),
            "00-[0-9a-f]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{1,3}",
        ]) {
            if let Some(context) = TraceContext::parse(&text) {
                prop_assert!(context.trace != 0 && context.span != 0);
                prop_assert_eq!(&context.to_string()[..53], &text[..53]);
                prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            }
        }
    }
}
