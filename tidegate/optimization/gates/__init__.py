"""The gates: is a variant, a fresh package or a challenger as good as what it is to replace?"""
