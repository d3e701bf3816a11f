//! Plots in points, drawn by librsvg's own program: a renderer of SVG and of fonts is more than a balancer
//! should have in it.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::base::printable::Printable;

const PROGRAM: &str = "rsvg-convert";
/// Points for each unit of SVG: enough for print and for screens of high resolution.
const ZOOM: &str = "2";

/// What a PNG begins with (5.2).
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Makes sure, before a run, that there is a program that draws.
///
/// # Errors
/// When it is not there or does not run.
pub(super) fn check() -> anyhow::Result<()> {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("{PROGRAM} does not run: {}", output.status),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "a PNG is drawn by {PROGRAM}, which is not there (Debian's package librsvg2-bin); .svg needs no \
             other program"
        ),
        Err(error) => Err(error).context(PROGRAM),
    }
}

/// Draws an SVG.
///
/// # Errors
/// When the program fails, with what it says.
pub(super) fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new(PROGRAM)
        .args(["--format", "png", "--zoom", ZOOM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(PROGRAM)?;
    // It reads all before it draws. If it ends early, its status and its words tell more than this error.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(svg.as_bytes()));
    let output = child.wait_with_output().context(PROGRAM)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{PROGRAM}: {}: {}", output.status, Printable(said.trim()));
    written.context(PROGRAM)?;
    ensure!(output.stdout.starts_with(SIGNATURE), "{PROGRAM} has not written a PNG");
    Ok(output.stdout)
}
