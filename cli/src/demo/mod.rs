//! `mesh demo`: a built-in application in a mesh on this machine, with the live view on top.

pub mod app;
