//! Why a command failed, as a person reads it: one line that says what and why, and a hint what
//! to do. Every error of the crates below becomes one of these by `?`; nothing is lost of its
//! causes.

use std::any::Any;
use std::error::Error;
use std::fmt;

use strongroom_protocol::Chain;
use strongroom_protocol::opening::RefusalKind;

use crate::enrol::EnrolError;
use crate::operator::OperatorError;
use crate::remedy::remedy;
use crate::setup::SetupError;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was asked for is not there, which is an answer.
    Absent,
    Done,
    /// Done but for some things, each of which was named.
    Gaps,
}

impl Ending {
    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Absent => 1,
            Self::Done => 0,
            Self::Gaps => 3,
        }
    }
}

/// The exit code where cartridges must be fetched first.
pub(crate) const AWAY: u8 = 4;

/// A command that failed, or was not understood.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    hint: Option<String>,
    code: u8,
    /// Nobody reads what is printed any more: no failure at all.
    unheard: bool,
}

impl Failure {
    /// A failure that is not an error of anybody else.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), hint: None, code: 1, unheard: false }
    }

    /// The command makes no sense as given.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(text) }
    }

    /// With what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With an exit code of its own.
    #[must_use]
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        if self.unheard { 0 } else { self.code }
    }

    /// Whether there is nobody to tell.
    pub(crate) const fn is_unheard(&self) -> bool {
        self.unheard
    }
}

impl Failure {
    /// What it says, for what is kept on record.
    pub(crate) fn sentence(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({hint})", self.text),
            None => self.text.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strongroom: {}", self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut failure = Self::new(Chain(&error).to_string());
        let any: &dyn Any = &error;
        failure.hint = if let Some(error) = any.downcast_ref::<OperatorError>() {
            error.hint()
        } else if let Some(error) = any.downcast_ref::<EnrolError>() {
            error.hint().map(str::to_owned)
        } else if let Some(SetupError::Exists { .. }) = any.downcast_ref::<SetupError>() {
            Some("choose another directory, or move away what is there".to_owned())
        } else {
            remedy(&error)
        };
        if let Some(OperatorError::Refused { source, .. }) = any.downcast_ref::<OperatorError>()
            && source.kind == RefusalKind::Away
        {
            failure.code = AWAY;
        }
        let io = any.downcast_ref::<std::io::Error>();
        failure.unheard = io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
        failure
    }
}

/// Says what was being done when an error struck.
pub(crate) trait While<T> {
    /// `doing: the error: its causes`.
    fn doing(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> While<T> for Result<T, E> {
    fn doing(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let mut failure: Failure = error.into();
            failure.text = format!("{doing}: {}", failure.text);
            failure
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_causes_and_a_hint() {
        let error = OperatorError::NotAHome { path: "/x".into() };
        let text = Failure::from(error).to_string();
        let (first, hint) = text.split_once('\n').unwrap();
        assert_eq!(first, "strongroom: /x is not an operator's home");
        assert!(hint.starts_with("  hint: name it with --home"), "{hint}");
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failed: Result<(), Failure> = Err(missing).doing("cannot read policy.toml");
        let text = failed.unwrap_err().to_string();
        assert_eq!(text, "strongroom: cannot read policy.toml: entity not found");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(closed).code(), 0);
        assert_eq!(Failure::usage("what?").code(), 2);
        assert_eq!(Failure::new("no").code(), 1);
    }
}
