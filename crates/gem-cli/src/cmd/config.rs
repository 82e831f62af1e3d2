//! `gem config`.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cmd::start::NodeArgs;
use crate::exit::Outcome;
use crate::output::{self, Table};

#[derive(Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// A gem.toml with every key, its documentation and its default.
    #[arg(long, conflicts_with = "json")]
    documented: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ConfigArgs) -> Outcome {
    if args.documented {
        return output::line(gem_types::config::Config::documented_toml().trim_end());
    }
    let rows = args.node.resolve()?.effective_table();
    if args.json {
        let object = |row: gem_types::config::Effective| {
            let value = json!({ "value": row.value, "source": row.source.to_string() });
            (row.key.to_owned(), value)
        };
        let object: Map<String, Value> = rows.into_iter().map(object).collect();
        return output::json(&object);
    }
    let mut table = Table::new(&["key", "value", "source"]);
    for row in rows {
        table.row(vec![row.key.to_owned(), row.value, row.source.to_string()]);
    }
    table.print()
}
