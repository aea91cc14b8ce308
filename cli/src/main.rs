//! The `strongroom` tool: everything an operator does, every node in one program, and restoring
//! when nothing else is left. This file is the table of contents; what a command does is in its
//! own file under `commands`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod booting;
mod commands;
mod drilling;
mod enrol;
mod exporting;
mod failure;
mod ground;
mod human;
mod inside;
mod keyring;
mod lab;
mod lasting;
mod lease;
mod lending;
mod live;
mod mariadb;
mod operator;
mod origin;
mod output;
mod point_at;
mod postgres;
mod progress;
mod proving;
mod remedy;
mod restoring;
mod scene;
mod secrets;
mod session;
mod setup;
mod shelf;
mod show;
mod steady;
mod tar;
mod vault;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use strongroom_images::cell::inhabit;
use strongroom_node::memory;
use strongroom_protocol::{Clock, SiteName, SystemClock};

use crate::commands::{BROKEN_OFF, Command, WAL_FETCH};
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::session::Session;

/// Recovery points that are where they should be, and provably so.
#[derive(Parser, Debug)]
#[command(name = "strongroom", version, propagate_version = true)]
struct Arguments {
    /// Your directory, as `init` or `enrol` made it
    #[arg(long, global = true, env = "STRONGROOM_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// The site to talk to; the first known otherwise
    #[arg(long, global = true, value_name = "SITE")]
    site: Option<SiteName>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    memory::set_up();
    if std::env::args_os().nth(1).is_some_and(|word| word == inside::CELL) {
        // Before there is any other thread: this process is to be confined.
        return inhabit();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody reads what is printed any more.
            let _ = error.print();
            return ExitCode::from(misread(error.exit_code(), std::env::args_os()));
        }
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let format = if arguments.json { Format::Json } else { Format::People };
    let out = Output::new(format, clock.now());
    let session = Session {
        home: arguments.home.unwrap_or_else(default_home),
        site: arguments.site,
        out: out.clone(),
        clock,
    };
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(Box::pin(arguments.command.run(&session))));
    ExitCode::from(match ended {
        Ok(ending) => ending.code(),
        Err(failure) => {
            if !failure.is_unheard() {
                out.remark(&failure.to_string());
            }
            failure.code()
        }
    })
}

/// The exit code of a command line that was not understood: a server that recovers takes the
/// usual one for the end of its log.
fn misread(code: i32, words: impl IntoIterator<Item = OsString>) -> u8 {
    match u8::try_from(code).unwrap_or(1) {
        0 => 0,
        _ if words.into_iter().any(|word| word == WAL_FETCH) => BROKEN_OFF,
        code => code,
    }
}

fn default_home() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".strongroom")
}

#[cfg(test)]
mod tests;
