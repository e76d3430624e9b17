from audit.engine.record import reproducible


def test_what_decides_no_fact_is_left_out_of_the_command():
    words = "-v run --model timm:x --out a --policy=p.toml --fresh --data d --policy q.toml --out=b"

    assert reproducible(words.split()) == ("run", "--model", "timm:x", "--data", "d")
