//! Maintenance jobs: which there are, and what a run of one is. Values only; `maintenance` runs them.

pub mod schedule;

use chrono::{DateTime, Utc};

/// A job. Each runs on one node at a time and never overlaps itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Job {
    /// Deletes what is too old, and what is more than a tenant keeps.
    Retention,
}

/// Number of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunId(pub i64);

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Asked for: the next node that looks begins it.
    Waiting,
    /// A node is at it.
    Running,
    /// It did all that it had to do.
    Succeeded,
    /// It did not, or not all of it; the message says what.
    Failed,
    /// The node that was at it died.
    Lost,
}

/// Why a run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was due.
    Schedule,
    /// Somebody asked for it.
    Request,
    /// The one before was lost with its node. That is done once: a run that kills its node must not
    /// go round them all.
    Loss,
}

/// A run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The job's name; one that this version does not know may have been written by another.
    pub job: String,
    /// Where it is in its life.
    pub state: RunState,
    /// Why it was begun.
    pub cause: Cause,
    /// Who asked for it; empty where nobody did.
    pub creator: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When a node began it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Name of the node that is or was at it.
    pub node: String,
    /// What it did, as a JSON object; `None` before its end.
    pub result: Option<String>,
    /// What went wrong.
    pub error_msg: String,
}

impl Job {
    /// Every job.
    pub const ALL: [Job; 1] = [Job::Retention];

    /// Its name in the configuration, on the command line and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Job::Retention => "retention",
        }
    }

    /// Reads the name.
    pub fn from_name(name: &str) -> Option<Job> {
        Job::ALL.into_iter().find(|job| job.name() == name)
    }

    /// What it does, in a sentence.
    pub const fn description(self) -> &'static str {
        match self {
            Job::Retention => "Deletes old operation log and run history, and results beyond what a tenant keeps.",
        }
    }

    /// The duty under which nodes take turns at it.
    pub fn duty(self) -> String {
        format!("job:{}", self.name())
    }
}

impl RunState {
    /// Every state.
    pub const ALL: [RunState; 5] =
        [RunState::Waiting, RunState::Running, RunState::Succeeded, RunState::Failed, RunState::Lost];

    /// As the database has it.
    pub const fn number(self) -> i16 {
        match self {
            RunState::Waiting => 0,
            RunState::Running => 1,
            RunState::Succeeded => 2,
            RunState::Failed => 3,
            RunState::Lost => 4,
        }
    }

    /// Reads the number.
    pub fn from_number(number: i16) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.number() == number)
    }

    /// As callers see it.
    pub const fn word(self) -> &'static str {
        match self {
            RunState::Waiting => "waiting",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Lost => "lost",
        }
    }

    /// True where nothing more will happen.
    pub const fn is_over(self) -> bool {
        match self {
            RunState::Waiting | RunState::Running => false,
            RunState::Succeeded | RunState::Failed | RunState::Lost => true,
        }
    }
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 3] = [Cause::Schedule, Cause::Request, Cause::Loss];

    /// In the database and as callers see it.
    pub const fn word(self) -> &'static str {
        match self {
            Cause::Schedule => "schedule",
            Cause::Request => "request",
            Cause::Loss => "loss",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_words_are_read_as_they_are_written() {
        for job in Job::ALL {
            assert_eq!(Job::from_name(job.name()), Some(job));
        }
        for state in RunState::ALL {
            assert_eq!(RunState::from_number(state.number()), Some(state));
        }
        for cause in Cause::ALL {
            assert_eq!(Cause::from_word(cause.word()), Some(cause));
        }
    }
}
