//! A domain of 20,000 users, a quarter of it lost and restored: the story of `strongroom try
//! --workload ad` at full size, with the program as its users have it. It fails on any
//! difference, and prints how long each stage took and how many objects came back in a second.

use std::process::Command;

use anyhow::Result;

use crate::packages;
use crate::parts::must;
use crate::sites::Profile;

/// How large.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many users the domain has; a quarter of them is lost.
    #[arg(long, default_value_t = 20_000)]
    users: usize,
    /// Which build of the program is driven.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// Tells the story.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure()?;
    let program = arguments.profile.build()?;
    let dir = tempfile::Builder::new().prefix("strongroom-directory-").tempdir()?;
    let mut story = Command::new(program);
    story.args(["try", "--workload", "ad", "--users", &arguments.users.to_string()]);
    must(story.arg("--dir").arg(dir.path()))
}
