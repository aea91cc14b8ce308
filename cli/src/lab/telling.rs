//! How the story is told while it happens: a spinner with what is done now on a terminal, a line
//! a stage elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::human;

/// Tells what is done now.
pub(crate) struct Telling {
    bar: ProgressBar,
    watched: bool,
}

impl Telling {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let watched = !bar.is_hidden();
        if watched {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar, watched }
    }

    /// A stage begins.
    pub(crate) fn begin(&self, what: &str) {
        let what = what.trim();
        if self.watched {
            self.bar.set_message(what.to_owned());
        } else {
            eprintln!("{what}");
        }
    }

    /// Something is waited for.
    pub(crate) fn tick(&self) {
        self.bar.tick();
    }

    /// How far a job is.
    pub(crate) fn progress(&self, progress: &Value) {
        let number = |name: &str| progress[name].as_u64().unwrap_or_default();
        if !self.watched || number("files") == 0 {
            return;
        }
        self.bar.set_message(format!(
            "protecting: {} files, {} seen, {} read, {} sent",
            human::count(number("files")),
            human::bytes(number("bytes_seen")),
            human::bytes(number("bytes_read")),
            human::bytes(number("bytes_sent")),
        ));
    }

    /// Something to be read afterwards too.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("  {text}"));
    }

    /// The story is over.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
