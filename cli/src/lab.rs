//! `strongroom try`: two sites on this machine, a real tree, every copy restored and compared.

mod changing;
pub(crate) mod domain;
mod nodes;
mod policy;
mod rows;
mod story;
mod telling;
mod tool;

pub(crate) use rows::table;
pub(crate) use story::Lab;
pub(crate) use telling::Telling;
