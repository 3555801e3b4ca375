"""The committed SQL of the clouds' engines: made by the models, parsed, and run beside the native marts."""

from datetime import UTC, datetime

import duckdb
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel

from orchestration.marts_sql import COMPILED, DIALECTS, VIEWS, mart_sql, read_sql, write_sql

# learn.microsoft.com/sql/t-sql/language-elements/reserved-keywords-transact-sql: names among them
# that a column or table could have.
T_SQL_RESERVED = """add all any authorization backup browse bulk cascade check checkpoint close clustered collate
    column commit compute constraint contains continue convert cross current cursor database dbcc
    deallocate declare default delete deny desc disk distributed double drop dump errlvl escape except
    exec execute exists exit external fetch file fillfactor for foreign freetext full function goto
    grant holdlock identity index insert intersect key kill lineno load merge national nocheck of off
    offsets open option outer percent pivot plan precision primary print proc procedure public
    raiserror read readtext reconfigure references replication restore restrict return revert revoke
    rollback rowcount rowguidcol rule save schema semantickeyphrasetable set setuser shutdown some
    statistics table tablesample textsize to top tran transaction trigger truncate tsequal unique
    unpivot update use user values view waitfor while writetext"""
NOT_IN_ICEBERG = {
    *("stg_queries", "query_load"),  # searches stay in the site's own log
    *("stg_places", "atlas_coverage", "country_coverage"),  # the atlas is no log
}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
every_file = pytest.mark.parametrize(
    ("dialect", "name"), [(d, name) for d in DIALECTS for name in read_sql(COMPILED / d)]
)


@pytest.fixture(scope="module")
def native(site):
    with duckdb.connect(str(site[0] / "marts.duckdb"), read_only=True) as marts:
        marts.execute("set TimeZone = 'UTC'")
        yield marts


@pytest.fixture(scope="module", params=DIALECTS)
def foreign(request, site):
    """DuckDB with the Iceberg tables and an engine's own statements over them, translated back."""
    with duckdb.connect() as engine:
        engine.execute("set TimeZone = 'UTC'; create schema worldloop")
        engine.execute(f"create schema {VIEWS}")
        for name, frame in site[1].items():
            rows = frame.to_arrow()
            engine.register("rows", rows)
            engine.execute(f"create table worldloop.{name} as select * from rows")
        for statement in read_sql(COMPILED / request.param).values():
            engine.execute(_as_duckdb(statement, request.param))
        yield engine


@every_dialect
def test_the_committed_sql_is_what_the_models_make_now(dialect):
    made = mart_sql(dialect)

    assert read_sql(COMPILED / dialect) == made, "run `make marts-sql` and look at the difference"
    assert list(read_sql(COMPILED / dialect)) == list(made)


@every_dialect
def test_every_model_is_there_but_those_of_rows_that_have_no_table(dialect):
    models = {path.stem for path in (COMPILED.parent / "models").rglob("*.sql")}

    assert models - set(read_sql(COMPILED / dialect)) == NOT_IN_ICEBERG


@every_file
def test_a_statement_parses_in_its_dialect_and_creates_its_view(dialect, name):
    (tree,) = _parsed(read_sql(COMPILED / dialect)[name], dialect)

    assert isinstance(tree, exp.Create)
    assert tree.kind == "VIEW"
    assert tree.this.sql() == f"{VIEWS}.{name}"


@every_dialect
def test_a_statement_comes_after_all_that_it_reads(dialect):
    made = set()
    for name, statement in read_sql(COMPILED / dialect).items():
        (tree,) = _parsed(statement, dialect)
        views = {t.name for t in tree.find_all(exp.Table) if t.db == VIEWS} - {name}
        assert views <= made
        made.add(name)


@every_file
def test_no_statement_says_what_duckdb_alone_of_the_four_understands(dialect, name):
    (tree,) = _parsed(read_sql(COMPILED / dialect)[name], dialect)

    assert not list(tree.find_all(exp.Qualify, exp.Filter, exp.ReadParquet))
    assert not [o for o in tree.find_all(exp.Order) if isinstance(o.parent, exp.AggFunc)]


@pytest.mark.parametrize("name", read_sql(COMPILED / "fabric"))
def test_t_sql_has_no_booleans_no_using_and_no_bare_reserved_name(name):
    (tree,) = _parsed(read_sql(COMPILED / "fabric")[name], "fabric")
    columns = [e for select in tree.find_all(exp.Select) for e in select.expressions]

    assert not list(tree.find_all(exp.Boolean, exp.DPipe))
    assert not [c for c in columns if isinstance(c.unalias(), exp.Predicate | exp.Connector)]
    assert not [join for join in tree.find_all(exp.Join) if join.args.get("using")]
    bare = {i.this for i in tree.find_all(exp.Identifier) if not i.quoted}
    assert not bare & set(T_SQL_RESERVED.split())


@pytest.mark.parametrize("name", [n for n in read_sql(COMPILED / "athena") if n[:4] != "stg_"])
def test_an_engine_counts_what_the_native_mart_counts(native, foreign, name):
    columns = [column for column, *_ in native.execute(f"describe {name}").fetchall()]

    ours = native.execute(f"select {', '.join(columns)} from {name}").fetchall()
    theirs = foreign.execute(f"select {', '.join(columns)} from {VIEWS}.{name}").fetchall()

    assert ours
    assert sorted(map(_comparable, theirs)) == sorted(map(_comparable, ours))


def test_files_of_models_that_are_gone_go_too(tmp_path):
    write_sql({"kept": "select 1", "gone": "select 2"}, tmp_path)

    write_sql({"kept": "select 1"}, tmp_path)

    assert read_sql(tmp_path) == {"kept": "select 1"}
    assert not (tmp_path / "gone.sql").exists()


def _parsed(statement, dialect):
    return sqlglot.parse(statement, read=dialect, error_level=ErrorLevel.RAISE)


def _as_duckdb(statement, dialect):
    (tree,) = _parsed(statement, dialect)
    if dialect == "fabric":
        _say_as_duckdb(tree)
    return tree.sql(dialect="duckdb")


def _say_as_duckdb(tree):
    """What sqlglot leaves as it is: `+` joins texts (and nothing else here), float has 64 bits, bit one."""
    for joined in list(tree.find_all(exp.Add)):
        joined.replace(exp.DPipe(this=joined.this, expression=joined.expression))
    names = {
        exp.DataType.Type.FLOAT: exp.DataType.Type.DOUBLE,
        exp.DataType.Type.BIT: exp.DataType.Type.BOOLEAN,
    }
    for kind in tree.find_all(exp.DataType):
        kind.set("this", names.get(kind.this, kind.this))


def _comparable(row):
    """Engines add floating numbers in any order; Athena and Fabric have moments in UTC without a zone."""
    return repr([_value(value) for value in row])


def _value(value):
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value
