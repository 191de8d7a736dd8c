//! HTTP/1.x on the wire: this proxy's own reader and writer of messages.
//!
//! A request costs no task and no channel here: the task of the client's connection reads the request, writes it to
//! a pooled connection and reads the response, all by polling the two connections itself. What is pure (`request`,
//! `response`, `chunked`, `encode`) takes bytes and gives parts of messages; `server` and `client` do the I/O.

pub(super) mod chunked;
pub(super) mod client;
mod encode;
mod outbox;
pub(super) mod request;
pub(super) mod response;
pub(super) mod server;
pub(super) mod session;

#[cfg(test)]
mod tests;
