"""Who is asking: tokens and the key sets that vouch for them."""
