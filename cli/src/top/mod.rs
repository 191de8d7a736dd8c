//! `mesh top`: the live view.
//!
//! Apart from each other: what is asked of the mesh (`collect`), what is shown (`state`, `row`), what keys
//! do (`keys`), and how it looks (`draw`, `tables`).

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use ratatui::crossterm::event::Event;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

pub mod collect;
mod draw;
mod keys;
pub mod row;
mod state;
mod tables;
mod terminal;
#[cfg(test)]
mod tests;

use collect::{Query, Snapshot};

use self::{draw::Palette, keys::Flow, state::App, terminal::Screen};
use crate::{
    client::{self, Mesh, Target},
    output::{Cell, Format, Print, Table, no_color},
    resource::{self, Scope},
};

/// Arguments of `mesh top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND, KIND/NAME or KIND NAME that sends or answers the requests [default: all]
    #[arg(value_name = "KIND[/NAME]")]
    resources: Vec<String>,
    /// Time to look back, up to 10m
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = resource::parse_window)]
    window: u32,
    /// Print instead of drawing: the default without a terminal
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Print again each second
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    mesh: Target,
}

/// Runs `mesh top`.
///
/// # Errors
/// There is no mesh, it does not answer, or it knows no such resource.
pub fn run(args: Args) -> Result<()> {
    let drawn = io::stdout().is_terminal() && io::stdin().is_terminal();
    client::block_on(async {
        let mesh = Mesh::find(&args.mesh).await?;
        let query = Query {
            selectors: args.scope.selectors(&mesh, &args.resources).await?,
            window_s: args.window,
        };
        match (args.output, drawn) {
            (None, true) => view(mesh, query).await,
            (output, _) => {
                let (output, watch) = (output.unwrap_or_default(), args.watch);
                print(&mesh, &query, Print { output, watch }).await
            }
        }
    })
}

/// Draws the live view until the user or a signal ends it.
///
/// # Errors
/// The first question has no good answer, or the terminal can't be drawn on.
pub async fn view(mesh: impl Into<Mesh>, query: Query) -> Result<()> {
    let mesh = mesh.into();
    // Asked before the terminal is taken: "there is no deployment wbe" is to be read, not to flash by.
    let first = collect::snapshot(&mut mesh.observe().await?, &query, None).await?;
    let mut app = App::new(mesh.name().to_owned(), query.window_s);
    app.apply(first);
    let palette = Palette { color: !no_color() };

    let (wanted, changed) = watch::channel(None);
    let (sender, mut snapshots) = mpsc::channel(1);
    let collector = tokio::spawn(collect::collect(mesh, query, changed, sender));
    let mut screen = Screen::take()?;
    let mut events = terminal::events();
    let mut sigterm = signal(SignalKind::terminate())?;
    let mut sighup = signal(SignalKind::hangup())?;
    let mut sigint = signal(SignalKind::interrupt())?;
    let outcome = loop {
        screen
            .terminal
            .draw(|frame| draw::draw(frame, &mut app, palette))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    if keys::press(&mut app, key) == Flow::Quit {
                        break Ok(());
                    }
                    wanted.send_if_modified(|wanted| {
                        let differs = wanted.as_ref() != app.wanted();
                        *wanted = app.wanted().cloned();
                        differs
                    });
                }
                // A resize needs no more than the next drawing.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error).context("Can't read the terminal"),
                None => break Ok(()),
            },
            snapshot = snapshots.recv() => match snapshot {
                Some(Ok(snapshot)) => app.apply(snapshot),
                Some(Err(error)) => app.error = Some(format!("{error:#}")),
                None => break Err(anyhow::anyhow!("The live view's collector ended")),
            },
            _ = sigterm.recv() => break Ok(()),
            _ = sighup.recv() => break Ok(()),
            _ = sigint.recv() => break Ok(()),
        }
    };
    collector.abort();
    outcome
}

async fn print(mesh: &Mesh, query: &Query, print: Print) -> Result<()> {
    let mut replicas = mesh.observe().await?;
    let ask = async || {
        let mut snapshot = collect::snapshot(&mut replicas, query, None).await?;
        snapshot.rows.sort_by(|a, b| row::Column::Rps.compare(b, a));
        Ok(snapshot)
    };
    print
        .answers(ask, |snapshot, format| Ok(table(snapshot, format)))
        .await
}

fn table(snapshot: &Snapshot, format: Format) -> Table {
    let wide = format == Format::Wide;
    let mut header = vec![
        "SOURCE",
        "DESTINATION",
        "METHOD",
        "ROUTE",
        "SUCCESS",
        "RPS",
        "P50",
        "P95",
        "P99",
    ];
    if wide {
        header.extend(["SERVICE", "SECURED"]);
    }
    let mut table = Table::new(header);
    for row in &snapshot.rows {
        let mut cells: Vec<Cell> = [&row.source, &row.destination, &row.method, &row.route]
            .map(Cell::text)
            .into();
        cells.extend(row.figures.cells());
        if wide {
            cells.push(Cell::text(&row.service));
            cells.push(Cell::text(row.security));
        }
        table.row(cells);
    }
    table
}
