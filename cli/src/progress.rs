//! A line that moves while something takes long. Drawn on a terminal only, and only once a
//! second has passed: what is quick stays quiet.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// What is quicker is not worth a line.
const QUIET: Duration = Duration::from_secs(1);
/// How often the line moves.
const TICK: Duration = Duration::from_millis(120);

/// The line, if there is one yet.
pub(crate) struct Line {
    began: Instant,
    drawn: Option<ProgressBar>,
    wanted: bool,
}

impl Line {
    /// Not drawn yet.
    pub(crate) fn new(out: &Output) -> Self {
        Self { began: Instant::now(), drawn: None, wanted: !out.is_json() }
    }

    /// Says how far it is.
    pub(crate) fn say(&mut self, text: String) {
        if !self.wanted || self.began.elapsed() < QUIET {
            return;
        }
        let line = self.drawn.get_or_insert_with(|| {
            // Draws nothing where standard error is no terminal.
            let line = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                line.set_style(style);
            }
            line.enable_steady_tick(TICK);
            line
        });
        line.set_message(text);
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if let Some(line) = self.drawn.take() {
            line.finish_and_clear();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
