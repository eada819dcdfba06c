//! Commands for operators: what is, why, and what next.

pub mod help;
