"""Power BI's project of `deploy/powerbi` against a server: its tables, columns and types are the server's, what DirectQuery makes of them is answered, and its report names nothing that
the model does not have. Power BI itself runs on Windows only, and is not tried.
"""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "powerbi"
# What the driver hands over for each type of a column, and what a model calls it.
TYPES = {"text": "string", "bigint": "int64", "double precision": "double", "boolean": "boolean", "timestamp with time zone": "dateTime", "date": "dateTime"}


def tables():
    """By table: its columns with their types, its measures, and the text of its query."""
    found = {}
    for path in sorted((FOLDER / "kilter.SemanticModel" / "definition" / "tables").glob("*.tmdl")):
        text = path.read_text()
        name = re.search(r"^table (\w+)$", text, re.M)[1]
        assert name == path.stem, f"{path.name} defines {name}"
        columns = dict(re.findall(r"^\tcolumn (\w+)\n\t\tdataType: (\w+)$", text, re.M))
        assert len(columns) == text.count("\tcolumn "), f"{path.name}: a column without a type"
        sources = re.findall(r"^\t\tsourceColumn: (\w+)$", text, re.M)
        assert sources == list(columns), f"{path.name}: columns and their sources differ"
        measures = re.findall(r"^\tmeasure (?:'([^']+)'|(\w+)) = (.+)$", text, re.M)
        found[name] = columns, {quoted or plain: dax for quoted, plain, dax in measures}, text
    return found


def fields(visual):
    """What a visual shows: (table, name, whether it is a measure)."""
    if isinstance(visual, dict):
        for kind, value in visual.items():
            if kind in ("Column", "Measure"):
                yield value["Expression"]["SourceRef"]["Entity"], value["Property"], kind == "Measure"
            else:
                yield from fields(value)
    elif isinstance(visual, list):
        for value in visual:
            yield from fields(value)


def check(connection):
    """How many statements were answered and how many visuals hold."""
    model, asked = tables(), 0
    for name, (columns, _, text) in model.items():
        native = re.search(r'NativeQuery\(Source, "(.+?)", null', text)
        item = re.search(r'Item = "(\w+)"', text)
        inner = native[1] if native else f'select {", ".join(f"{c}" for c in columns)} from "public"."{item[1]}"'
        cursor = connection.execute(f"select * from ({inner}) s limit 0")
        got = {d.name: connection.execute("select format_type(%s, null)", [d.type_code]).fetchone()[0] for d in cursor.description}
        expected = {column: TYPES.get(kind) for column, kind in got.items()}
        assert columns == expected, f"{name}: the model says {columns}, the server {expected}"
        # As DirectQuery asks: what a visual groups by, around what the table's query says.
        by = next((column for column, kind in columns.items() if kind == "string" and not column.endswith("_id")), next(iter(columns)))
        question = f'select "_"."{by}" as "c0", count(1) as "a0" from ({inner}) "_" group by "_"."{by}" order by "a0" desc limit 1000001'
        connection.execute(question).fetchall()
        asked += 2
    definition = FOLDER / "kilter.SemanticModel" / "definition"
    for table, column in re.findall(r"^\t(?:from|to)Column: (\w+)\.(\w+)$", (definition / "relationships.tmdl").read_text(), re.M):
        assert column in model[table][0], f"a relationship names {table}.{column}"
    assert set(re.findall(r"^ref table (\w+)$", (definition / "model.tmdl").read_text(), re.M)) == set(model), "model.tmdl names other tables"
    for _, measures, _ in model.values():
        for dax in measures.values():
            for table, column in re.findall(r"(\w+)\[(\w+)\]", dax):
                assert column in model[table][0], f"a measure names {table}[{column}]"
    report = FOLDER / "kilter.Report" / "definition"
    pages = json.loads((report / "pages" / "pages.json").read_text())["pageOrder"]
    assert pages == [p for p in pages if (report / "pages" / p / "page.json").exists()], "a page is not there"
    visuals = list(report.glob("pages/*/visuals/*/visual.json"))
    for path in visuals:
        visual = json.loads(path.read_text())
        assert visual["name"] == path.parent.name, f"{path}: is called {visual['name']}"
        shown = list(fields(visual["visual"]["query"]))
        assert shown, f"{path}: shows nothing"
        for table, name, is_measure in shown:
            assert name in model[table][1 if is_measure else 0], f"{path}: {table} has no {name}"
    for path in FOLDER.rglob("*"):
        if path.suffix in (".json", ".pbip", ".pbir", ".pbism", ".pbids"):
            json.loads(path.read_text())
    return asked, len(visuals)
