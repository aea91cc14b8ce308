//! Rows of a measurement, kept as text so that runs add up, and the table of their medians.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::data::Data;
use super::{Figures, Step};

const MIB: f64 = 1024.0 * 1024.0;
/// Whom ratios are quoted against besides the best.
const RIVAL: &str = "restic";
const OURS: &str = "strongroom";
/// Not a peer: what the machine does.
const BARE: &str = "bare";
/// Peers that do not deduplicate or encrypt do not count as the best.
const UNEQUAL: [&str; 3] = ["rsync", "tar", BARE];

/// One step of one tool in one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    run: u32,
    data: String,
    tool: String,
    step: String,
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    stored_mib: f64,
    note: String,
}

impl Row {
    pub(super) fn new(run: u32, data: Data, tool: &str, step: Step, figures: Figures) -> Self {
        let Figures { cost, stored_bytes, note } = figures;
        Self {
            run,
            data: data.as_str().to_owned(),
            tool: tool.to_owned(),
            step: step.as_str().to_owned(),
            seconds: cost.seconds,
            cpu_seconds: cost.cpu_seconds,
            peak_mib: cost.peak_bytes as f64 / MIB,
            stored_mib: stored_bytes as f64 / MIB,
            note,
        }
    }

    /// A line while it runs.
    pub(super) fn say(&self) {
        println!(
            "{:<3} {:<10} {:<26} {:>8.2} s {:>8.2} CPU s {:>7.0} MiB peak {:>7.0} MiB stored  {}",
            self.data,
            self.tool,
            self.step,
            self.seconds,
            self.cpu_seconds,
            self.peak_mib,
            self.stored_mib,
            self.note
        );
    }

    pub(super) fn append(&self, file: &Path) -> Result<()> {
        let mut out = OpenOptions::new().create(true).append(true).open(file)?;
        let Self { run, data, tool, step, seconds, cpu_seconds, peak_mib, stored_mib, note } = self;
        writeln!(
            out,
            "{run}\t{data}\t{tool}\t{step}\t{seconds:.3}\t{cpu_seconds:.2}\t{peak_mib:.0}\t\
             {stored_mib:.1}\t{note}"
        )?;
        Ok(())
    }
}

/// Rows of a file that earlier runs appended to.
pub(super) fn read(file: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    text.lines().map(|line| parse(line).with_context(|| format!("row {line:?}"))).collect()
}

fn parse(line: &str) -> Result<Row> {
    let mut fields = line.split('\t');
    let mut next = || fields.next().context("a row is cut short");
    Ok(Row {
        run: next()?.parse()?,
        data: next()?.to_owned(),
        tool: next()?.to_owned(),
        step: next()?.to_owned(),
        seconds: next()?.parse()?,
        cpu_seconds: next()?.parse()?,
        peak_mib: next()?.parse()?,
        stored_mib: next()?.parse()?,
        note: next().unwrap_or_default().to_owned(),
    })
}

/// The middle of some figures, or of the two in the middle; not a number where there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[middle],
        all => f64::midpoint(all[middle - 1], all[middle]),
    }
}

/// Prints a table for each data set and step, as Markdown.
pub(super) fn print(rows: &[Row]) -> Result<()> {
    let data: BTreeSet<&str> = rows.iter().map(|row| row.data.as_str()).collect();
    for data in data {
        println!("\n### {data}\n");
        println!(
            "| step | tool | runs | seconds: median (least to most) | CPU s | peak MiB | \
             repository MiB | ours is faster by: median of pairs |"
        );
        println!("| --- | --- | --: | --: | --: | --: | --: | --: |");
        for step in Step::ALL {
            let of_step: Vec<&Row> =
                rows.iter().filter(|row| row.data == data && row.step == step.as_str()).collect();
            print_step(step.as_str(), &of_step);
        }
    }
    Ok(())
}

fn print_step(step: &str, rows: &[&Row]) {
    let mut tools: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        tools.entry(&row.tool).or_default().push(row);
    }
    let best = tools
        .iter()
        .filter(|(tool, _)| **tool != OURS && !UNEQUAL.contains(tool))
        .map(|(tool, rows)| (seconds(rows), *tool))
        .min_by(|one, other| one.0.total_cmp(&other.0));
    let mut order: Vec<(&str, Vec<&Row>)> = tools.into_iter().collect();
    order.sort_by(|one, other| seconds(&one.1).total_cmp(&seconds(&other.1)));
    let ours: Vec<&Row> = rows.iter().filter(|row| row.tool == OURS).copied().collect();
    for (tool, rows) in order {
        let of = |field: fn(&Row) -> f64| median(rows.iter().map(|row| field(row)).collect());
        let least = rows.iter().map(|row| row.seconds).fold(f64::INFINITY, f64::min);
        let most = rows.iter().map(|row| row.seconds).fold(0.0, f64::max);
        let mut mark = if best.is_some_and(|(_, best)| best == tool) { " (best peer)" } else { "" };
        if tool == RIVAL && mark.is_empty() {
            mark = " (rival)";
        }
        let ratio = match tool == OURS {
            true => String::new(),
            false => pairs(&rows, &ours),
        };
        println!(
            "| {step} | {tool}{mark} | {} | {:.2} ({least:.2} to {most:.2}) | {:.2} | {:.0} | \
             {:.0} | {ratio} |",
            rows.len(),
            of(|row| row.seconds),
            of(|row| row.cpu_seconds),
            of(|row| row.peak_mib),
            of(|row| row.stored_mib),
        );
    }
}

fn seconds(rows: &[&Row]) -> f64 {
    median(rows.iter().map(|row| row.seconds).collect())
}

/// Their seconds over ours, run by run: what the machine did to both cancels out.
fn pairs(theirs: &[&Row], ours: &[&Row]) -> String {
    let ratio = |row: &&Row| {
        let same = ours.iter().find(|own| own.run == row.run)?;
        Some(row.seconds / same.seconds)
    };
    let ratios: Vec<f64> = theirs.iter().filter_map(ratio).collect();
    if ratios.is_empty() {
        return String::new();
    }
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.1} ({least:.1} to {most:.1})", median(ratios))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: u32, tool: &str, seconds: f64) -> Row {
        Row {
            run,
            data: "d1".to_owned(),
            tool: tool.to_owned(),
            step: "first protect".to_owned(),
            seconds,
            cpu_seconds: 1.5,
            peak_mib: 3.0,
            stored_mib: 7.5,
            note: "a note".to_owned(),
        }
    }

    #[test]
    fn rows_come_back_as_they_were_written() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let rows = [row(0, "restic", 4.0), row(1, "strongroom", 2.0)];
        rows.iter().try_for_each(|row| row.append(file.path()))?;
        assert_eq!(read(file.path())?, rows);
        Ok(())
    }

    #[test]
    fn ratios_are_of_pairs_of_the_same_run() {
        let theirs = [row(0, "restic", 4.0), row(1, "restic", 30.0), row(2, "restic", 6.0)];
        let ours = [row(0, "strongroom", 2.0), row(1, "strongroom", 10.0)];
        let (theirs, ours): (Vec<_>, Vec<_>) = (theirs.iter().collect(), ours.iter().collect());
        assert_eq!(pairs(&theirs, &ours), "2.5 (2.0 to 3.0)");
    }
}
