"""Pure decisions of both back ends, one small file each."""
