//! The commands, one a file, and who carries out which.

mod diff;
mod directory;
mod drill;
mod dump;
mod enrol;
mod export;
mod find;
mod init;
mod jobs;
mod keys;
mod ls;
mod mariadb;
pub(crate) mod media;
mod mount;
mod operator;
mod orders;
mod pages;
mod policy;
mod postgres;
mod protect;
mod questions;
mod restore;
mod run_node;
mod takeover;
mod token;
mod try_it;
mod verify;
mod vm;

use clap::{CommandFactory, Subcommand};
use strongroom_protocol::admin::{Pinned, Request};

use crate::Arguments;
use crate::failure::{Ending, Failure};
use crate::session::Session;

pub(crate) use postgres::{BROKEN_OFF, WAL_FETCH};
pub(crate) use restore::{CopyArgs, beside, copy_site};
pub(crate) use vm::{MachineAsked, drill_machine};

/// Everything the tool can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Try(try_it::TryArgs),
    Init(init::InitArgs),
    Token(token::TokenArgs),
    Takeover(takeover::TakeoverArgs),
    Giveback(takeover::GivebackArgs),
    Enrol(enrol::EnrolArgs),
    #[command(hide = true)]
    Run(run_node::RunArgs),
    /// Hold a freeze for an agent, over standard input and output
    #[command(hide = true)]
    FreezeHolder,
    Status(questions::StatusArgs),
    /// List the nodes and whether they are connected
    Nodes,
    Revoke(orders::RevokeArgs),
    Operator(operator::OperatorArgs),
    Keys(keys::KeysArgs),
    Policy(policy::PolicyArgs),
    WhatIf(policy::WhatIfArgs),
    Postgres(postgres::PostgresArgs),
    Mariadb(mariadb::MariadbArgs),
    /// List what is protected
    Workloads,
    Protect(protect::ProtectArgs),
    Jobs(jobs::JobsArgs),
    Points(questions::PointsArgs),
    Why(questions::WhyArgs),
    Ls(ls::LsArgs),
    Find(find::FindArgs),
    Diff(diff::DiffArgs),
    Directory(directory::DirectoryArgs),
    Drill(drill::DrillArgs),
    /// Carry out a drill for a proxy, told over standard input
    #[command(hide = true)]
    DrillProcess,
    Dump(dump::DumpArgs),
    Export(export::ExportArgs),
    Mount(mount::MountArgs),
    #[command(hide = true)]
    MountGuard(mount::GuardArgs),
    Restore(restore::RestoreArgs),
    Verify(verify::VerifyArgs),
    Vm(vm::VmArgs),
    Hold(orders::HoldArgs),
    /// Keep a point until it is unpinned
    Pin(orders::PinArgs),
    /// Leave a point to its policy again
    Unpin(orders::PinArgs),
    Event(orders::EventArgs),
    Media(media::MediaArgs),
    Audit(questions::AuditArgs),
    Prune(orders::PruneArgs),
    Space(orders::SpaceArgs),
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
}

impl Command {
    /// Carries the command out.
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self {
            Self::Try(args) => args.run(session).await,
            Self::Init(args) => args.run(session).await,
            Self::Token(args) => args.run(session).await,
            Self::Enrol(args) => args.run(session).await,
            Self::Run(args) => args.run(session).await,
            Self::FreezeHolder => match strongroom_agent::hold_freeze() {
                true => Ok(Ending::Done),
                false => Err(Failure::new("something may still be frozen")),
            },
            Self::Operator(args) => args.run(session),
            Self::Keys(args) => args.run(session).await,
            Self::Policy(args) => args.run(session).await,
            Self::WhatIf(args) => args.run(session).await,
            Self::Postgres(args) => args.run(session).await,
            Self::Mariadb(args) => args.run(session).await,
            Self::Protect(args) => args.run(session).await,
            Self::Jobs(args) => args.run(session).await,
            Self::Ls(args) => args.run(session).await,
            Self::Find(args) => args.run(session).await,
            Self::Diff(args) => args.run(session).await,
            Self::Directory(args) => args.run(session).await,
            Self::Drill(args) => args.run(session).await,
            Self::DrillProcess => crate::drilling::run(session).await,
            Self::Dump(args) => args.run(session).await,
            Self::Export(args) => args.run(session).await,
            Self::Mount(args) => args.run(session).await,
            Self::MountGuard(args) => args.run(),
            Self::Restore(args) => args.run(session).await,
            Self::Verify(args) => args.run(session).await,
            Self::Vm(args) => args.run(session).await,
            Self::Media(args) => args.run(session).await,
            Self::Status(args) => args.run(session).await,
            Self::Takeover(args) => args.run(session).await,
            Self::Giveback(args) => args.run(session).await,
            Self::Completions(args) => args.run(session, Arguments::command()),
            Self::Man(args) => args.run(session, Arguments::command()),
            asked => asked.ask(session).await,
        }
    }

    /// The commands that are one question and its answer.
    async fn ask(self, session: &Session) -> Result<Ending, Failure> {
        let request = match self {
            Self::Nodes => Request::Nodes,
            Self::Workloads => Request::Workloads,
            Self::Points(args) => args.request(),
            Self::Why(args) => args.request(),
            Self::Audit(args) => args.request(),
            Self::Revoke(args) => args.request(&session.operator()?, session.site.as_ref())?,
            Self::Hold(args) => args.request(),
            Self::Pin(args) => args.request(Pinned::Yes),
            Self::Unpin(args) => args.request(Pinned::No),
            Self::Event(args) => args.request(session.clock.now())?,
            Self::Prune(args) => args.request(),
            Self::Space(args) => args.request(),
            _ => Request::Status,
        };
        session.tell(&request).await
    }
}
