"""ctrlib"""
