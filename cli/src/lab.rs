//! `strongroom try`: two sites on this machine, a real tree, every copy restored and compared.

mod changing;
pub(crate) mod domain;
pub(crate) mod machine;
mod mariadb;
mod nodes;
mod policy;
mod postgres;
mod rows;
mod story;
mod telling;
mod tool;

pub(crate) use mariadb::story as mariadb;
pub(crate) use postgres::story as postgres;
pub(crate) use rows::table;
pub(crate) use story::Lab;
pub(crate) use telling::Telling;
