//! Prints an error with its causes, once each: `Display` of our errors never contains the
//! source, so this is the only place where a chain becomes a sentence.

use std::error::Error;
use std::fmt;

/// `outer: cause: deeper cause`.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
