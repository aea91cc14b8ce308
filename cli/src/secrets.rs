//! Passphrases and recovery keys from people and files. Promises never to take one from the
//! command line, where everybody on the host reads it; asks only on a terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use strongroom_certs::{RecoveryKey, Secret, files};
use zeroize::Zeroizing;

use crate::failure::{Failure, While};
use crate::vault::Opener;

/// Where a passphrase may be given to scripts.
pub(crate) const PASSPHRASE_VARIABLE: &str = "STRONGROOM_PASSPHRASE";
/// Shortest new passphrase, in characters: argon2 makes guessing slow, not impossible.
const PASSPHRASE_CHARS_MIN: usize = 8;

/// What opens the vault key.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct OpenerArgs {
    /// A file that holds the recovery key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "passphrase"])]
    recovery_key_file: Option<PathBuf>,
    /// A file that holds the passphrase
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Ask for the passphrase (or take STRONGROOM_PASSPHRASE)
    #[arg(long)]
    passphrase: bool,
}

impl OpenerArgs {
    /// Whether anything was given; the variable counts.
    pub(crate) fn is_given(&self) -> bool {
        self.recovery_key_file.is_some()
            || self.passphrase_file.is_some()
            || self.passphrase
            || std::env::var_os(PASSPHRASE_VARIABLE).is_some()
    }

    /// What was given, or what a person types.
    pub(crate) fn opener(&self) -> Result<Opener, Failure> {
        if let Some(path) = &self.recovery_key_file {
            let secret = read(path, "recovery key")?;
            let text = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
            let key: RecoveryKey =
                text.trim().parse().doing(format!("{} is not usable", path.display()))?;
            return Ok(Opener::Recovery(key));
        }
        passphrase(self.passphrase_file.as_deref()).map(Opener::Passphrase)
    }
}

/// A passphrase that exists: from a file, the environment, or a person.
pub(crate) fn passphrase(file: Option<&Path>) -> Result<Secret, Failure> {
    match given(file)? {
        Some(secret) => Ok(secret),
        None => ask("Passphrase: ", "--passphrase-file FILE or STRONGROOM_PASSPHRASE"),
    }
}

/// A passphrase to be set: a person types it twice.
pub(crate) fn new_passphrase(file: Option<&Path>) -> Result<Secret, Failure> {
    match given(file)? {
        Some(secret) => long_enough(secret),
        None => ask_twice("--passphrase-file FILE or STRONGROOM_PASSPHRASE"),
    }
}

/// A passphrase that replaces another: never from the variable, which has the old one.
pub(crate) fn replacing_passphrase(file: Option<&Path>) -> Result<Secret, Failure> {
    match file {
        Some(path) => long_enough(read(path, "new passphrase")?),
        None => ask_twice("--new-passphrase-file FILE"),
    }
}

fn ask_twice(other_way: &str) -> Result<Secret, Failure> {
    let first = ask("New passphrase: ", other_way)?;
    if first.expose() != ask("Once more: ", other_way)?.expose() {
        return Err(Failure::new("the two passphrases differ"));
    }
    long_enough(first)
}

fn long_enough(secret: Secret) -> Result<Secret, Failure> {
    let chars = String::from_utf8_lossy(secret.expose()).chars().count();
    match chars {
        0..PASSPHRASE_CHARS_MIN => {
            Err(Failure::new(format!("a passphrase of {chars} characters protects nothing"))
                .hint(format!("use {PASSPHRASE_CHARS_MIN} or more; four random words are good")))
        }
        _ => Ok(secret),
    }
}

/// A new recovery key as it is shown once: in two lines of seven groups, so that it fits on
/// paper and on a narrow screen.
pub(crate) fn sheet(recovery: &RecoveryKey) -> Zeroizing<String> {
    let text = recovery.to_text();
    // Half of the groups, each with the hyphen behind it.
    let (first, second) = text.split_at_checked(text.len().div_ceil(2)).unwrap_or((&text, ""));
    Zeroizing::new(format!(
        "RECOVERY KEY\n\n    {first}\n    {second}\n\nWrite it on paper now: it is shown once and \
         stored nowhere. "
    ))
}

fn given(file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    match (file, std::env::var(PASSPHRASE_VARIABLE)) {
        (Some(path), _) => read(path, "passphrase").map(Some),
        (None, Ok(text)) => Ok(Some(text.into())),
        (None, Err(_)) => Ok(None),
    }
}

/// The first line of a file: editors put a line break behind it.
fn read(path: &Path, what: &str) -> Result<Secret, Failure> {
    let whole = files::read(path).doing(format!("cannot read the {what}"))?;
    let whole = Secret::new(whole);
    let line =
        whole.expose().split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    Ok(Secret::new(line.to_vec()))
}

fn ask(prompt: &str, other_way: &str) -> Result<Secret, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("a passphrase is needed and nobody can be asked")
            .hint(format!("give it with {other_way}")));
    }
    let text = rpassword::prompt_password(prompt).doing("cannot ask for the passphrase")?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_give_their_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "correct horse battery\nsecond\n").unwrap();
        assert_eq!(new_passphrase(Some(&path)).unwrap().expose(), b"correct horse battery");
        std::fs::write(&path, "short\n").unwrap();
        let refused = new_passphrase(Some(&path)).unwrap_err().to_string();
        assert!(refused.contains("5 characters"), "{refused}");
        let key = RecoveryKey::from_bytes([8; 32]);
        std::fs::write(&path, format!("{}\n", *key.to_text())).unwrap();
        let args = OpenerArgs { recovery_key_file: Some(path.clone()), ..OpenerArgs::default() };
        assert!(matches!(args.opener().unwrap(), Opener::Recovery(found) if found == key));
        std::fs::write(&path, "0000-typo").unwrap();
        let refused = args.opener().err().unwrap().to_string();
        assert!(refused.contains("group 1"), "{refused}");
    }
}
