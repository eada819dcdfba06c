//! What the autoscaler knows and decides. Nothing here talks to AWS, reads a clock or an environment,
//! or waits: everything comes in as values and goes out as values, so every rule can be tested whole.
//!
//! Read [`policy::decide`] first: it is the one place where anything is decided.

pub mod config;
pub mod error;
pub mod ledger;
pub mod messages;
pub mod metric;
pub mod model;
pub mod policy;
pub mod ports;
pub mod published;
pub mod redeployment;
