//! The processes of the demo's application, an online shop: `mesh demo-app ROLE`.
//!
//! Each role is one small, ordinary server or client: it knows nothing of the mesh. Between them they speak
//! what a mesh has to carry: HTTP/1.1, gRPC (unary and streaming), a line protocol over TCP, and a protocol
//! in which the server speaks first. One role fails on purpose, one is slow on purpose.

use std::time::Duration;

use anyhow::Result;

use crate::{client, resource};

mod http;
mod lines;
mod pricing;
mod serve;
mod services;
mod shoppers;
mod web;

/// Port of the roles that speak HTTP/1.1.
const HTTP_PORT: u16 = 8080;
/// Port of [`Role::Pricing`].
const PRICING_PORT: u16 = 9090;
/// Port of [`Role::Store`].
const STORE_PORT: u16 = 7000;
/// Port of [`Role::Mailer`]: none of the ports that the mesh knows as server-first.
const MAILER_PORT: u16 = 2525;

/// Kinds of processes in the shop.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub enum Role {
    /// The traffic source: visitors of the shop.
    Shoppers {
        /// Requests per second.
        #[arg(long, default_value_t = 50.0)]
        rps: f64,
    },
    /// The shop's pages (HTTP/1.1).
    Web,
    /// The products (HTTP/1.1).
    Catalog {
        /// Time added to every answer.
        #[arg(long, default_value = "0s", value_parser = resource::parse_duration)]
        delay: Duration,
    },
    /// The carts (HTTP/1.1), kept in the store.
    Cart,
    /// The prices (gRPC).
    Pricing {
        /// Share of the quotes that fail with INTERNAL, 0 to 1.
        #[arg(long, default_value_t = 0.0)]
        fail: f64,
    },
    /// The payments (HTTP/1.1).
    Payments {
        /// Share of the charges that fail with 503, 0 to 1.
        #[arg(long, default_value_t = 0.0)]
        fail: f64,
    },
    /// The store of the carts (lines over TCP).
    Store,
    /// The mail server (the server speaks first).
    Mailer,
}

/// Plays a role until SIGTERM.
///
/// # Errors
/// Its port is taken.
pub fn run(role: Role) -> Result<()> {
    client::block_on(async {
        match role {
            Role::Shoppers { rps } => shoppers::run(rps).await,
            Role::Web => web::run().await,
            Role::Catalog { delay } => services::catalog(delay).await,
            Role::Cart => services::cart().await,
            Role::Pricing { fail } => pricing::run(fail).await,
            Role::Payments { fail } => services::payments(fail).await,
            Role::Store => lines::store().await,
            Role::Mailer => lines::mailer().await,
        }
    })
}
