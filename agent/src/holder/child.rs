//! The holder's own half: freezes, answers, and lets go on whatever comes first: the order, the
//! end of the pipe, the deadline.

use std::io::{self, BufRead as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::note::Note;
use super::{Order, Said};

/// Lines that may wait; the parent asks one thing at a time.
const LINES_MAX: usize = 16;

/// A way of holding something still.
pub trait Holding {
    /// Freezes; what was seen.
    ///
    /// # Errors
    /// Why it is not frozen. Whatever was begun is undone.
    fn freeze(&mut self) -> Result<Value, String>;

    /// Answers a question while it is held.
    ///
    /// # Errors
    /// Why there is no answer.
    fn answer(&mut self, question: &Value) -> Result<Value, String> {
        let _ = question;
        Err("nothing can be asked of this freeze".to_owned())
    }

    /// Lets go and looks whether it goes; what was seen. Tried again until it succeeds.
    ///
    /// # Errors
    /// Why it is not seen to go.
    fn thaw(&mut self) -> Result<Value, String>;
}

/// How to make a holding from what an order says; none for a word not known.
pub type Held = fn(what: &str, about: &Value) -> Option<Result<Box<dyn Holding>, String>>;

/// How often a thaw is tried, and how long between.
const THAW_TRIES_MAX: u32 = 20;
const THAW_PAUSE: Duration = Duration::from_millis(250);

/// Runs as a holder, over standard input and output, until it has let go. False: something
/// may still be frozen.
pub fn serve(held: Held) -> bool {
    let (lines, heard) = sync_channel::<String>(LINES_MAX);
    let _reader = std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let Ok(line) = heard.recv() else { return true };
    let order: Order = match serde_json::from_str(&line) {
        Ok(order) => order,
        Err(error) => return fail(&format!("the order cannot be read: {error}"), true),
    };
    let mut holding = match held(&order.what, &order.about) {
        Some(Ok(holding)) => holding,
        Some(Err(why)) => return fail(&why, true),
        None => return fail(&format!("nothing is known of {:?}", order.what), true),
    };
    let until = Instant::now() + Duration::from_millis(order.deadline_ms);
    let note = match order.note.as_deref().map(|path| Note::write(path, &order)).transpose() {
        Ok(note) => note,
        Err(error) => return fail(&format!("the freeze cannot be noted: {error}"), true),
    };
    let expired = match holding.freeze() {
        Ok(seen) => {
            say(&Said::Held(seen));
            hold(holding.as_mut(), &heard, until)
        }
        Err(why) => {
            // Begun and not done counts as begun: it is let go all the same.
            let thawed = thaw(holding.as_mut());
            if let (Ok(_), Some(note)) = (&thawed, note) {
                note.forget();
            }
            return fail(&why, thawed.is_ok());
        }
    };
    let thawed = thaw(holding.as_mut());
    if let (Ok(_), Some(note)) = (&thawed, note) {
        note.forget();
    }
    let whole = thawed.is_ok();
    match (thawed, expired) {
        (Ok(_), true) => say(&Said::Expired(format!("after {} ms", order.deadline_ms))),
        (Ok(seen), false) => say(&Said::Released(seen)),
        (Err(why), _) => say(&Said::Failed(why)),
    }
    whole
}

/// Until the pipe ends or the deadline comes; whether it was the deadline.
fn hold(holding: &mut dyn Holding, heard: &Receiver<String>, until: Instant) -> bool {
    loop {
        match heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let question = serde_json::from_str(&line).unwrap_or(Value::Null);
                match holding.answer(&question) {
                    Ok(answer) => say(&Said::Held(answer)),
                    Err(why) => say(&Said::Failed(why)),
                }
            }
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
}

pub(super) fn thaw(holding: &mut dyn Holding) -> Result<Value, String> {
    let mut tries = 0;
    loop {
        let thawed = holding.thaw();
        tries += 1;
        if thawed.is_ok() || tries >= THAW_TRIES_MAX {
            return thawed;
        }
        std::thread::sleep(THAW_PAUSE);
    }
}

fn fail(why: &str, whole: bool) -> bool {
    say(&Said::Failed(why.to_owned()));
    whole
}

/// Nobody hears it when the agent is gone; the thaw does not depend on that.
fn say(said: &Said) {
    let Ok(line) = serde_json::to_string(said) else { return };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
