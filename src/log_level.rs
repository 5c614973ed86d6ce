//! What is logged, while the process runs. Logging belongs to the whole process, so this does too.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::config::check::is_filter;

/// Puts directives in the place of those in force.
pub type Change = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static LEVEL: OnceLock<Level> = OnceLock::new();

struct Level {
    current: Mutex<String>,
    change: Change,
}

/// Why the level stays what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is logged in this process.
    #[error("this process does not log")]
    NotLogging,
    /// The words are no level.
    #[error("must be off, error, warn, info, debug or trace, also by part: info,sqlx=debug")]
    NoLevel,
}

/// Says how the level of this process is changed, once.
pub fn install(current: String, change: Change) {
    LEVEL.set(Level { current: Mutex::new(current), change }).ok();
}

/// The directives in force.
pub fn current() -> String {
    let current = |level: &Level| level.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    LEVEL.get().map_or_else(|| "off".to_owned(), current)
}

/// Takes others, until the process ends.
///
/// # Errors
/// Where they are none, or nothing is logged.
pub fn change(directives: &str) -> Result<(), Refused> {
    if !is_filter(directives) {
        return Err(Refused::NoLevel);
    }
    let level = LEVEL.get().ok_or(Refused::NotLogging)?;
    // Held until both are changed, so that `current` never tells of another one.
    let mut current = level.current.lock().unwrap_or_else(PoisonError::into_inner);
    (level.change)(directives).map_err(|_| Refused::NoLevel)?;
    directives.clone_into(&mut current);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_level_are_refused() {
        for directives in ["", "loud", "infos", "a=b=c", "info,sqlx=loud"] {
            assert_eq!(change(directives), Err(Refused::NoLevel), "{directives}");
        }
    }
}
