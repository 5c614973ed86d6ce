//! `alert`: see whether operators can be told. Needs no running service and no database.

use anyhow::bail;
use clap::{Subcommand, ValueEnum};

use crate::{
    alert::Channel,
    config::Config,
    logging,
    monitor::{Channels, test_notice},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a test alert and say what became of it; exit code 1 where a channel failed
    Test {
        /// Only through this channel [default: all that are set up]
        #[arg(long, value_enum)]
        channel: Option<Way>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Way {
    Email,
    Webhook,
    Log,
}

pub(super) async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    let Command::Test { channel } = command;
    logging::init(&config.log)?;
    let channels = Channels::open(&config).map_err(anyhow::Error::msg)?;
    let ways = channel.map_or_else(|| vec![Way::Email, Way::Webhook, Way::Log], |way| vec![way]);
    let mut failed = 0;
    for way in ways {
        let outcome = match way {
            Way::Email => sent(&channels, Channel::Email, channel.is_some()).await,
            Way::Webhook => sent(&channels, Channel::Webhook, channel.is_some()).await,
            Way::Log => {
                channels.log(&test_notice());
                Ok("log: written above, unless log.level hides it".to_owned())
            }
        };
        failed += usize::from(outcome.is_err());
        super::print(&format!("{}\n", outcome.unwrap_or_else(|failure| failure)))?;
    }
    match failed {
        0 => Ok(()),
        1 => bail!("the test alert did not get through"),
        several => bail!("the test alert did not get through {several} channels"),
    }
}

/// One line about what became of it. A channel that is not set up is a failure only for those who
/// asked for it.
async fn sent(channels: &Channels, channel: Channel, asked_for: bool) -> Result<String, String> {
    let name = channel.word();
    let Some(to) = channels.described(channel) else {
        let key = match channel {
            Channel::Email => "host",
            Channel::Webhook => "url",
        };
        let line = format!("{name}: not set up; monitor.{name}.{key} is empty");
        return if asked_for { Err(line) } else { Ok(line) };
    };
    match channels.send(channel, &[&test_notice()]).await {
        Ok(said) => Ok(format!("{name}: sent to {to}; the other side said: {said}")),
        Err(error) => Err(format!("{name}: NOT sent to {to}: {error}")),
    }
}
