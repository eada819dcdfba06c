//! `efs-autoscale`, the program for people. [`local`] is the whole system on one machine.

pub mod local;
