//! What is shown: models are registered, tasks are created, watched and picked up, and each has to
//! end as it should. Everything goes through the public interface.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    client::{Call, Client, Created, List, PickedUp, Seen},
    language_model, piper,
    screen::{Screen, size},
};
use crate::{clock, task::lifecycle::State};

/// Time between two looks at the tasks.
const LOOK: Duration = Duration::from_millis(25);

/// How long all tasks together may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Most characters of a textual result that are shown.
const PREVIEW: usize = 200;

/// A model to register, and what to ask of it.
pub(super) struct Model {
    name: &'static str,
    registration: Value,
    jobs: Vec<Job>,
}

/// A task to create.
struct Job {
    about: &'static str,
    payload: Value,
    expected: Expected,
}

/// How a task should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// With a file of that type.
    File(&'static str),
    /// With a file of that type, but not at the first try.
    FileAfterRetry(&'static str),
    /// With a failure for good, at the first try.
    Failure,
}

/// A task that was created.
struct Task {
    id: String,
    model: &'static str,
    expected: Expected,
    /// As last shown.
    stage: Stage,
    retries: u32,
}

/// Where a task is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Queued,
    Running,
    /// Waits for its next try.
    Resting {
        retries: u32,
    },
    Succeeded,
    Failed,
}

/// What to show with the models there are; base URLs.
pub(super) fn models(piper: Option<&str>, language: &str) -> Vec<Model> {
    let speech = piper.map(|url| Model {
        name: "speech",
        registration: json!({
            "modelName": "speech", "baseUrl": url, "route": piper::ROUTE,
            "maxConcurrency": 2, "timeoutSeconds": 60, "retryTimes": 2,
        }),
        jobs: vec![
            spoken("The library opens at nine."),
            spoken("Every task has an id before its model is even called."),
            spoken("Two of us may speak at once. I had to wait."),
        ],
    });
    let language = Model {
        name: "language",
        registration: json!({
            "modelName": "language", "baseUrl": language, "route": language_model::ROUTE,
            "maxConcurrency": 1, "timeoutSeconds": 5, "retryTimes": 3,
        }),
        jobs: vec![
            // The first one finds the model cold, is told to come again, and does.
            Job {
                expected: Expected::FileAfterRetry("json"),
                ..read("Le chat dort sur le toit pendant que la pluie tombe.")
            },
            read("El mercado abre temprano y los pescadores venden su pesca."),
            read("Der Zug nach Hamburg hat heute wieder eine halbe Stunde gewartet."),
            // A slip in the payload: the model refuses it, and asking again would not help.
            Job {
                about: "(a slip: \"txt\" for \"text\")",
                payload: json!({ "txt": "?" }),
                expected: Expected::Failure,
            },
        ],
    };
    speech.into_iter().chain([language]).collect()
}

fn spoken(text: &'static str) -> Job {
    Job { about: text, payload: json!({ "text": text }), expected: Expected::File("wav") }
}

fn read(text: &'static str) -> Job {
    Job { expected: Expected::File("json"), ..spoken(text) }
}

/// Does and shows it all.
///
/// # Errors
/// A call that failed, or the tasks that did not end as they should.
pub(super) async fn tell(service: &str, models: &[Model], screen: &Screen) -> anyhow::Result<()> {
    let client = Client::new(service)?;
    let mut calls = Vec::new();
    screen.section("Tasks, as their states change:");
    register(&client, models, &mut calls).await?;
    let began = clock::tick();
    let mut tasks = create(&client, models, screen, began, &mut calls).await?;
    let watched = tokio::time::timeout(LIMIT, watch(&client, &mut tasks, screen, began)).await;
    watched.with_context(|| format!("not every task ended within {} s", LIMIT.as_secs()))??;
    screen.section("Results, picked up with one call of getTaskBatch, then fetched:");
    let pick_up = Call::new("/task/getTaskBatch", json!({ "taskIds": ids(&tasks) }));
    pick_up_all(&client, &pick_up, &tasks, screen).await?;
    screen.verdict(&verdict(&tasks)?);
    calls.push(pick_up);
    screen.calls(&calls, service);
    Ok(())
}

/// Registers the models.
async fn register(client: &Client, models: &[Model], calls: &mut Vec<Call>) -> anyhow::Result<()> {
    for model in models {
        let call = Call::new("/model/createModel", model.registration.clone());
        client.send::<Value>(&call).await?;
        calls.push(call);
    }
    Ok(())
}

/// Creates the tasks; `calls` gets the first one of each model.
async fn create(
    client: &Client,
    models: &[Model],
    screen: &Screen,
    began: Instant,
    calls: &mut Vec<Call>,
) -> anyhow::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for model in models {
        for (index, job) in model.jobs.iter().enumerate() {
            let body = json!({ "modelName": model.name, "requestPayload": job.payload });
            let call = Call::new("/task/createTask", body);
            let Created { task_id: id } = client.send(&call).await?;
            screen.change(began.elapsed(), &id, model.name, Stage::Queued, job.about);
            tasks.push(Task { id, model: model.name, expected: job.expected, stage: Stage::Queued, retries: 0 });
            if index == 0 {
                calls.push(call);
            }
        }
    }
    Ok(tasks)
}

/// Shows every change until all tasks have ended.
async fn watch(client: &Client, tasks: &mut [Task], screen: &Screen, began: Instant) -> anyhow::Result<()> {
    let look = Call::new("/task/listTask", json!({ "page": { "pageNum": 1, "pageSize": 100 } }));
    while !tasks.iter().all(|task| task.stage.is_final()) {
        let answer: List<Seen> = client.send(&look).await?;
        let seen: HashMap<&str, &Seen> = answer.list.iter().map(|seen| (seen.task_id.as_str(), seen)).collect();
        for task in tasks.iter_mut() {
            let now = *seen.get(task.id.as_str()).with_context(|| format!("the task {} is gone", task.id))?;
            let stage = Stage::of(now)?;
            task.retries = now.retry_count;
            if stage != task.stage {
                screen.change(began.elapsed(), &task.id, task.model, stage, &stage.remark(now));
                task.stage = stage;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

impl Stage {
    fn of(seen: &Seen) -> anyhow::Result<Stage> {
        let state = State::from_number(seen.state).with_context(|| format!("there is no state {}", seen.state))?;
        Ok(match state {
            State::Queued if seen.retry_count > 0 => Stage::Resting { retries: seen.retry_count },
            State::Queued => Stage::Queued,
            State::Running => Stage::Running,
            State::Succeeded | State::PickedUp => Stage::Succeeded,
            State::Failed | State::Cancelled => Stage::Failed,
        })
    }

    fn is_final(self) -> bool {
        match self {
            Stage::Queued | Stage::Running | Stage::Resting { .. } => false,
            Stage::Succeeded | Stage::Failed => true,
        }
    }

    fn remark(self, seen: &Seen) -> String {
        match self {
            Stage::Queued => String::new(),
            Stage::Running if seen.retry_count > 0 => format!("try {}", seen.retry_count + 1),
            Stage::Running => String::new(),
            Stage::Resting { .. } | Stage::Failed => seen.error_msg.clone(),
            Stage::Succeeded => format!("{}, {}", seen.file_type, size(seen.file_size)),
        }
    }
}

/// Picks up what has succeeded, fetches every file, and checks it.
async fn pick_up_all(client: &Client, pick_up: &Call, tasks: &[Task], screen: &Screen) -> anyhow::Result<()> {
    let answer: List<PickedUp> = client.send(pick_up).await?;
    ensure!(answer.list.len() == tasks.len(), "getTaskBatch answered {} of {} tasks", answer.list.len(), tasks.len());
    for (task, result) in tasks.iter().zip(&answer.list) {
        ensure!(task.id == result.task_id, "getTaskBatch answered in another order than asked");
        if result.state == i64::from(State::Succeeded.number()) {
            let file = client.fetch(&result.oss_file).await?;
            let fetched = file.len() as u64;
            ensure!(fetched == result.file_size, "{} has {fetched} bytes, not {}", result.oss_file, result.file_size);
            check_type(task.expected, result)?;
            let preview = preview(&file);
            screen.result(&task.id, &result.file_type, fetched, &result.oss_file, preview.as_deref());
        }
    }
    Ok(())
}

fn check_type(expected: Expected, result: &PickedUp) -> anyhow::Result<()> {
    match expected {
        Expected::File(kind) | Expected::FileAfterRetry(kind) if result.file_type != kind => {
            bail!("{} should be {kind}, not {}", result.oss_file, result.file_type)
        }
        Expected::File(_) | Expected::FileAfterRetry(_) | Expected::Failure => Ok(()),
    }
}

/// A result that is a text, cut to what fits.
fn preview(file: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(file).ok()?;
    Some(text.chars().take(PREVIEW).collect())
}

fn ids(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.id.as_str()).collect()
}

/// The last word, or what went otherwise than expected.
fn verdict(tasks: &[Task]) -> anyhow::Result<String> {
    let wrong: Vec<String> = tasks.iter().filter_map(Task::surprise).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    let count = |wanted: fn(&Task) -> bool| tasks.iter().filter(|task| wanted(task)).count();
    let succeeded = count(|task| task.stage == Stage::Succeeded);
    let retried = count(|task| task.stage == Stage::Succeeded && task.retries > 0);
    let failed = count(|task| task.stage == Stage::Failed);
    Ok(format!(
        "{} tasks, each as expected: {succeeded} succeeded ({retried} after a retry), {failed} failed for good",
        tasks.len()
    ))
}

impl Task {
    /// What is otherwise than expected, if anything.
    fn surprise(&self) -> Option<String> {
        let as_expected = match self.expected {
            Expected::File(_) => self.stage == Stage::Succeeded,
            Expected::FileAfterRetry(_) => self.stage == Stage::Succeeded && self.retries > 0,
            Expected::Failure => self.stage == Stage::Failed && self.retries == 0,
        };
        let Task { id, model, expected, stage, retries } = self;
        (!as_expected)
            .then(|| format!("the {model} task {id} was to end with {expected:?}: {stage:?} after {retries} retries"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(expected: Expected, stage: Stage, retries: u32) -> Task {
        Task { id: "id".into(), model: "m", expected, stage, retries }
    }

    #[test]
    fn only_the_expected_end_is_good() {
        let good = [
            task(Expected::File("wav"), Stage::Succeeded, 0),
            task(Expected::File("json"), Stage::Succeeded, 1),
            task(Expected::FileAfterRetry("json"), Stage::Succeeded, 1),
            task(Expected::Failure, Stage::Failed, 0),
        ];
        assert!(verdict(&good).unwrap().contains("4 tasks, each as expected: 3 succeeded (2 after a retry), 1 failed"));
        for bad in [
            task(Expected::File("wav"), Stage::Failed, 0),
            task(Expected::FileAfterRetry("json"), Stage::Succeeded, 0),
            task(Expected::Failure, Stage::Failed, 1),
            task(Expected::Failure, Stage::Succeeded, 0),
        ] {
            assert!(verdict(&[bad]).is_err());
        }
    }

    #[test]
    fn a_queued_task_that_was_tried_is_resting() {
        let seen = |state, retry_count| Seen {
            task_id: String::new(),
            state,
            error_msg: "busy".into(),
            retry_count,
            file_type: "wav".into(),
            file_size: 61_000,
        };
        assert_eq!(Stage::of(&seen(0, 0)).unwrap(), Stage::Queued);
        assert_eq!(Stage::of(&seen(0, 2)).unwrap(), Stage::Resting { retries: 2 });
        assert_eq!(Stage::of(&seen(4, 0)).unwrap(), Stage::Succeeded);
        assert!(Stage::of(&seen(9, 0)).is_err());
        assert_eq!(Stage::Resting { retries: 1 }.remark(&seen(0, 1)), "busy");
        assert_eq!(Stage::Running.remark(&seen(1, 1)), "try 2");
        assert_eq!(Stage::Succeeded.remark(&seen(2, 0)), "wav, 61 kB");
    }

    #[test]
    fn without_piper_there_is_still_every_kind_of_end() {
        let models = models(None, "http://language");
        let ends: Vec<Expected> = models.iter().flat_map(|model| model.jobs.iter().map(|job| job.expected)).collect();
        assert!(ends.contains(&Expected::File("json")) && ends.contains(&Expected::Failure));
        assert!(ends.contains(&Expected::FileAfterRetry("json")));
    }
}
