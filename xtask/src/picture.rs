//! `cargo xtask picture`: draws `docs/query-path.svg`, the picture of the README.
//!
//! A test checks that the committed file is the one that this code draws.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use crate::process::root;

/// The picture's path in the repository.
const PATH: &str = "docs/query-path.svg";

/// The size of the picture in pixels.
const WIDTH: u32 = 820;
const HEIGHT: u32 = 370;

/// A rectangle with lines of text. The first line is bold. Positions are in pixels, from the top
/// left corner.
struct Block {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
    fill: &'static str,
    lines: &'static [&'static str],
}

/// An arrow along a polyline, with a label. Positions are in pixels, from the top left corner.
struct Arrow {
    points: &'static [(u32, u32)],
    color: &'static str,
    label: &'static str,
    label_at: (u32, u32),
}

// Colors of blocks and arrows.
const USER: &str = "#eef3fb";
const KERNEL: &str = "#eaf6ec";
const CLUSTER: &str = "#f6f1e7";
const ANSWERED: &str = "#1a7f37";
const PASSED: &str = "#57606a";
const WRITTEN: &str = "#0550ae";

const BLOCKS: &[Block] = &[
    Block {
        x: 10,
        y: 150,
        width: 160,
        height: 70,
        fill: USER,
        lines: &["Pod", "asks 10.96.0.10:53"],
    },
    Block {
        x: 260,
        y: 140,
        width: 190,
        height: 90,
        fill: KERNEL,
        lines: &[
            "Kernel program",
            "tc at the pod's veth,",
            "XDP at a network card",
        ],
    },
    Block {
        x: 260,
        y: 275,
        width: 190,
        height: 70,
        fill: KERNEL,
        lines: &["Shared memory", "names, records, lease"],
    },
    Block {
        x: 560,
        y: 150,
        width: 240,
        height: 70,
        fill: CLUSTER,
        lines: &["Network stack, cluster DNS", "as without Zerohop"],
    },
    Block {
        x: 560,
        y: 275,
        width: 240,
        height: 70,
        fill: USER,
        lines: &["Agent on this node", "objects → finished answers"],
    },
    Block {
        x: 560,
        y: 25,
        width: 240,
        height: 70,
        fill: CLUSTER,
        lines: &["Kubernetes API", "Services, slices, Corefile, policies"],
    },
];

const ARROWS: &[Arrow] = &[
    Arrow {
        points: &[(170, 172), (260, 172)],
        color: "#24292f",
        label: "query",
        label_at: (196, 164),
    },
    Arrow {
        points: &[(260, 202), (170, 202)],
        color: ANSWERED,
        label: "reply",
        label_at: (198, 219),
    },
    Arrow {
        points: &[(450, 185), (560, 185)],
        color: PASSED,
        label: "not certain: pass",
        label_at: (454, 176),
    },
    Arrow {
        points: &[(355, 275), (355, 230)],
        color: ANSWERED,
        label: "reads",
        label_at: (362, 258),
    },
    Arrow {
        points: &[(560, 310), (450, 310)],
        color: WRITTEN,
        label: "writes",
        label_at: (486, 302),
    },
    Arrow {
        points: &[(690, 95), (690, 122), (812, 122), (812, 310), (800, 310)],
        color: WRITTEN,
        label: "lists, watches",
        label_at: (700, 116),
    },
];

/// Writes the picture.
pub(crate) fn run() -> Result<()> {
    let path = root().join(PATH);
    fs::write(&path, draw()).with_context(|| format!("writing {}", path.display()))?;
    println!("{PATH}");
    Ok(())
}

/// The picture as SVG text.
fn draw() -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\" \
         aria-label=\"The path of a query\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    for block in BLOCKS {
        draw_block(&mut svg, block);
    }
    for arrow in ARROWS {
        draw_arrow(&mut svg, arrow);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_block(svg: &mut String, block: &Block) {
    let Block {
        x,
        y,
        width,
        height,
        fill,
        lines,
    } = block;
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\" \
         fill=\"{fill}\" stroke=\"#8c959f\"/>"
    );
    let center = x + width / 2;
    // The lines are 18 pixels apart, and centered. Text is placed by its baseline,
    // which is 5 pixels below its middle.
    let first = y + height / 2 + 5 - 9 * (lines.len() as u32 - 1);
    for (number, line) in lines.iter().enumerate() {
        let weight = if number == 0 { "600" } else { "400" };
        let _ = writeln!(
            svg,
            "<text x=\"{center}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"{weight}\" \
             fill=\"#24292f\">{line}</text>",
            first + 18 * number as u32
        );
    }
}

fn draw_arrow(svg: &mut String, arrow: &Arrow) {
    let color = arrow.color;
    let points: Vec<String> = arrow
        .points
        .iter()
        .map(|(x, y)| format!("{x},{y}"))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
        points.join(" ")
    );
    let [.., from, tip] = arrow.points else {
        return;
    };
    let _ = writeln!(
        svg,
        "<polygon points=\"{}\" fill=\"{color}\"/>",
        arrow_head(*from, *tip)
    );
    let (x, y) = arrow.label_at;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"12\" fill=\"{color}\">{}</text>",
        arrow.label
    );
}

/// The three corners of the head of an arrow whose last segment is horizontal or vertical. The head
/// is 9 pixels long and 10 wide.
fn arrow_head(from: (u32, u32), tip: (u32, u32)) -> String {
    let (x, y) = (i64::from(tip.0), i64::from(tip.1));
    let (along_x, along_y) = (
        (x - i64::from(from.0)).signum(),
        (y - i64::from(from.1)).signum(),
    );
    let (back_x, back_y) = (x - 9 * along_x, y - 9 * along_y);
    let (side_x, side_y) = (5 * along_y, 5 * along_x);
    format!(
        "{x},{y} {},{} {},{}",
        back_x + side_x,
        back_y + side_y,
        back_x - side_x,
        back_y - side_y
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_picture_is_current() {
        let committed = fs::read_to_string(root().join(PATH)).unwrap();
        assert!(
            committed == draw(),
            "{PATH} is out of date: run `cargo xtask picture`"
        );
    }
}
