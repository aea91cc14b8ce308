//! Where log lines go: standard error, for people or (JSON) for machines. `STRONGROOM_LOG`
//! filters, in tracing's syntax.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogStyle {
    Json,
    #[default]
    Text,
}

/// Sets up logging for this process; a second call changes nothing.
pub fn start(style: LogStyle, default_filter: &str) {
    let filter = EnvFilter::try_from_env("STRONGROOM_LOG")
        .unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = match style {
        LogStyle::Json => lines.json().try_init(),
        LogStyle::Text => lines.try_init(),
    };
    // Fails only when a subscriber is set already, as in tests: theirs is used then.
    drop(started);
}
