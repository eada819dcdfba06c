//! What the benchmarks share: rounds of numbers and tables of them ([`report`]), facts about the machine ([`machine`]), and an
//! allocator that counts ([`allocations`]).

pub mod allocations;
pub mod machine;
pub mod report;
