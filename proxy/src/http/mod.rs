//! HTTP: requests in, to an endpoint or the app, and their responses back.

pub mod inbound;
pub mod outbound;
mod pool;

pub use pool::Pool;
