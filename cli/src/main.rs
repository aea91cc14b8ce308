//! The `strongroom` tool.
mod enrol;
mod operator;
mod setup;
mod vault;
fn main() {}
