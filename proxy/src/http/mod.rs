//! HTTP/1.x and HTTP/2, from the client's first byte to the end of the last response.
//!
//! In: an accepted connection that is known to speak HTTP. Out: its requests, forwarded to endpoints or to the
//! app over pooled connections, and their responses. What can't be forwarded is answered here, with the
//! cause in words. The modules stand in the order in which a request meets them.

mod server;

mod h1;
mod head;
mod incoming;

pub mod inbound;
pub mod outbound;

mod forward;
mod headers;
mod retry;
mod upload;

mod http2;
mod pool;

mod answer;
mod body;
mod exchange;
mod respond;
mod tunnel;

pub use pool::Pool;

#[cfg(feature = "bench")]
pub mod bench;

#[cfg(test)]
mod tests;
