//! CPU per request as bars, in SVG.

use std::fmt::Write as _;

use super::{
    results::{Results, Spread},
    scenario::Scenario,
};

const BAR: usize = 18;
const WIDTH: f64 = 420.0;

/// One group of bars a scenario; shorter is better.
pub(super) fn draw(scenarios: &[Scenario], results: &Results) -> String {
    let mut body = String::new();
    let mut y = 30;
    for scenario in scenarios {
        let cpu = |peer: &String| {
            let spread = Spread::of(results.runs(scenario.name, peer)?, |run| run.cpu_us)?;
            Some((peer.clone(), spread.median)).filter(|(_, cpu)| *cpu > 0.0)
        };
        let mut bars: Vec<_> = results.peers().iter().filter_map(cpu).collect();
        bars.sort_by(|a, b| a.1.total_cmp(&b.1));
        let longest = bars.iter().map(|bar| bar.1).fold(1e-9, f64::max);
        let _ = write!(
            body,
            "<text x='10' y='{y}' font-weight='bold'>{}</text>",
            scenario.what
        );
        y += 8;
        for (name, cpu) in bars {
            let colour = if name == "mesh" { "#2a9d8f" } else { "#9aa5b1" };
            let (width, text) = (WIDTH * cpu / longest, y + BAR - 5);
            let _ = write!(
                body,
                "<text x='10' y='{text}'>{name}</text><rect x='130' y='{y}' width='{width:.1}' height='{}' \
                 fill='{colour}'/><text x='{:.1}' y='{text}'>{cpu:.1} µs</text>",
                BAR - 4,
                136.0 + width
            );
            y += BAR;
        }
        y += 30;
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='680' height='{y}' font-family='sans-serif' \
         font-size='12'><rect width='100%' height='100%' fill='white'/>{body}</svg>\n"
    )
}
