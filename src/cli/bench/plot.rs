//! `plot`: draws how figures grow with the queue, as SVG, from the JSON of a run.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;

use super::{
    report::{Figure, Report},
    table::number,
};

/// Size of a picture, and the margins around what is drawn.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Told apart by people who see no difference between red and green, too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A line: its name and its points, (rows, value).
type Line = (String, Vec<(f64, f64)>);

/// Reads the report and writes one picture for each series of figures over rows.
pub(super) fn draw(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is not a report of bench", file.display()))?;
    fs::create_dir_all(folder)?;
    let mut series: Vec<&str> = report.figures.iter().filter(|f| f.at.is_some()).map(|f| f.series.as_str()).collect();
    series.sort_unstable();
    series.dedup();
    for name in series {
        let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.series == name).collect();
        let unit = figures.first().map_or("", |figure| figure.unit.as_str());
        let unit = if unit == "/s" { "per second" } else { unit };
        let path = folder.join(format!("{}.svg", name.to_lowercase().replace(' ', "-")));
        fs::write(&path, picture(&format!("{name}, {unit}"), &lines(&figures)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        super::tell(&path.display().to_string());
    }
    Ok(())
}

/// One line for each number of lanes.
fn lines(figures: &[&Figure]) -> Vec<Line> {
    let mut lines: Vec<(u64, Vec<(f64, f64)>)> = Vec::new();
    for figure in figures {
        let Some(at) = figure.at else { continue };
        let point = (at.rows as f64, figure.median());
        match lines.iter_mut().find(|(lanes, _)| *lanes == at.lanes) {
            Some((_, points)) => points.push(point),
            None => lines.push((at.lanes, vec![point])),
        }
    }
    lines.sort_by_key(|(lanes, _)| *lanes);
    let mut named = Vec::new();
    for (lanes, mut points) in lines {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        named.push((format!("{} {}", number_of(lanes as f64), if lanes == 1 { "lane" } else { "lanes" }), points));
    }
    named
}

/// Rows to the right, by powers of ten; values upwards, from zero.
fn picture(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let (least, most) = points().fold((f64::INFINITY, 1.0_f64), |(a, b), (x, _)| (a.min(x), b.max(x)));
    let top = points().fold(f64::MIN_POSITIVE, |top, (_, y)| top.max(y)) * 1.1;
    let (least, most) = (least.max(1.0).log10().floor(), most.log10().ceil());
    let x = |rows: f64| LEFT + (rows.log10() - least) / (most - least).max(1.0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    // Writing to a text cannot fail.
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (at, right) = (y(value), WIDTH - RIGHT);
        writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>").ok();
        let (label_x, label_y) = (LEFT - 6.0, at + 4.0);
        writeln!(svg, "<text x=\"{label_x}\" y=\"{label_y:.1}\" text-anchor=\"end\">{}</text>", number(value)).ok();
    }
    let mut power = least;
    while power <= most {
        let (at, low) = (x(10_f64.powf(power)), HEIGHT - BOTTOM + 18.0);
        let label = number_of(10_f64.powf(power));
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{low}\" text-anchor=\"middle\">{label}</text>").ok();
        power += 1.0;
    }
    let (middle, low) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0);
    writeln!(svg, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">queued rows</text>").ok();
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = points.iter().map(|&(rows, value)| format!("{:.1} {:.1}", x(rows), y(value))).collect();
        writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L")).ok();
        for &(rows, value) in points {
            writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(rows), y(value)).ok();
        }
        if let Some(&(rows, value)) = points.last() {
            let (at, height) = (x(rows) + 8.0, y(value) + 4.0);
            writeln!(svg, "<text x=\"{at:.1}\" y=\"{height:.1}\" fill=\"{colour}\">{name}</text>").ok();
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A whole number as people say it.
fn number_of(value: f64) -> String {
    match value {
        1_000_000.0.. => format!("{}M", value / 1_000_000.0),
        1_000.0.. => format!("{}k", value / 1_000.0),
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_line_for_each_series_and_stays_within_its_frame() {
        let lines = [("1 lane".to_owned(), vec![(1e4, 5.0), (1e6, 4.0)]), ("100 lanes".to_owned(), vec![(1e4, 1.0)])];
        let svg = picture("drain", &lines);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("1 lane</text>") && svg.contains(">10k</text>") && svg.contains(">1M</text>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
