//! The chores of this repository as commands: `cargo xtask test` is what a clean checkout must
//! pass, `cargo xtask lint` what a commit must. Each command is one file. A part that is
//! missing fails the run; nothing is skipped in silence.

#![allow(clippy::print_stdout, reason = "a chore's report is what it prints")]

mod agents;
mod bench;
mod chain;
mod directory;
mod export;
mod fuzz;
mod kill;
mod lab;
mod lint;
mod mount;
mod packages;
mod parts;
mod postgres;
mod random;
mod relay;
mod scale;
mod sites;
mod stage;
mod tape;
mod test;
mod vm;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the Strongroom repository", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Protect many hosts at once, and look at rate, fairness and memory
    Agents(agents::Arguments),
    /// Measure the whole against its peers on the same trees in the same run
    Bench(bench::Arguments),
    /// A machine from its freeze to tape, over the loss of its site and back, on real parts
    Chain(chain::Arguments),
    /// Lose a quarter of a domain of 20,000 users, and restore it from each copy
    Directory(directory::Arguments),
    /// Read an image through NBD beside a local file, and boot a machine from its point
    Export(export::Arguments),
    /// Hold back what a rule of a network hands over, and lose some; the lab runs it
    #[command(hide = true)]
    Distance,
    /// Feed mutated bytes to every parser of outside bytes, on the stable toolchain
    Fuzz(fuzz::Arguments),
    /// Kill agent, coordinator and proxy at random moments, and see that nothing is lost
    Kill(kill::Arguments),
    /// Two sites in containers: cut their link, kill every node, lose site A, then both
    Lab(lab::Arguments),
    /// Check formatting, clippy and the documentation; a warning is an error
    Lint,
    /// Mount a point of a million files, and look at how soon and how fast it is read
    Mount(mount::Arguments),
    /// Kill around a real cluster of PostgreSQL under load, and compare with other programs
    Postgres(postgres::Arguments),
    /// Protect a million files and look at the memory it took
    Scale(scale::Arguments),
    /// Copy a point to a tape library of tgt, beside the same driver writing out of memory
    Tape(tape::Arguments),
    /// Install what the tests need, build, run every test and a slice of every campaign
    Test,
    /// Protect and boot a real machine under load, and kill the agent while it is frozen
    Vm(vm::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Agents(arguments) => agents::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Chain(arguments) => chain::run(&arguments),
        Chore::Directory(arguments) => directory::run(&arguments),
        Chore::Distance => lab::distance::run(),
        Chore::Export(arguments) => export::run(&arguments),
        Chore::Fuzz(arguments) => fuzz::run(&arguments),
        Chore::Kill(arguments) => kill::run(&arguments),
        Chore::Lab(arguments) => lab::run(&arguments),
        Chore::Lint => lint::run(),
        Chore::Mount(arguments) => mount::run(&arguments),
        Chore::Postgres(arguments) => postgres::run(&arguments),
        Chore::Scale(arguments) => scale::run(&arguments),
        Chore::Tape(arguments) => tape::run(&arguments),
        Chore::Test => test::run(),
        Chore::Vm(arguments) => vm::run(&arguments),
    }
}
