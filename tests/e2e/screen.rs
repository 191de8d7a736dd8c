//! The live view in a pseudo-terminal.

use std::{process::Command, time::Duration};

use mesh_tests::{Snapshot, Turn, binary, figure, namespaces_possible, screen::Screen, skip};

#[test]
fn the_live_view() {
    const TEST: &str = "live view";
    if let Err(why) = namespaces_possible() {
        return skip(TEST, &why);
    }
    let _turn = Turn::wait();
    println!("{TEST}:");
    let folder = tempfile::tempdir().expect("a folder");
    let before = Snapshot::take();
    let start = std::time::Instant::now();
    let mut command = Command::new(binary::mesh());
    command.arg("demo");
    command
        .env("TMPDIR", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path());
    let mut screen = Screen::start(command, 40, 120);
    // Below the two lines of totals, what has a success rate is a row.
    let rows = |text: &str| {
        text.lines()
            .skip(2)
            .filter(|line| line.contains('%'))
            .count()
    };
    let text = screen.wait_until("rows with figures", Duration::from_secs(30), |text| {
        rows(text) >= 5
    });
    figure!(
        "{} rows after {:.1} s",
        rows(&text),
        start.elapsed().as_secs_f64()
    );
    let family = mesh_tests::Family::of(screen.id());

    // Paused, so that only keys change the screen.
    screen.press(" ");
    screen.wait_until("the word paused", Duration::from_secs(5), |text| {
        text.to_lowercase().contains("paused")
    });
    let unsorted = screen.text();
    screen.press("r");
    let reversed = screen.wait_until("another order", Duration::from_secs(5), |text| {
        text != unsorted
    });
    screen.press("1");
    screen.wait_until(
        "sorted by the first column",
        Duration::from_secs(5),
        |text| text != reversed,
    );

    screen.press("/zzz-no-such-row");
    screen.wait_until("no rows", Duration::from_secs(5), |text| rows(text) == 0);
    screen.press("\x1b");
    screen.wait_until("the rows again", Duration::from_secs(5), |text| {
        rows(text) >= 5
    });

    screen.press("q");
    let status = screen.wait_end(Duration::from_secs(15));
    assert!(status.success(), "{status}:\n{}", screen.text());
    screen.assert_restored();
    before.assert_nothing_left("demo", &family, folder.path());
}
