from llmbench.reference_engine.cli import main

main()
