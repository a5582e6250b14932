"""`python -m app.engine`: start the reference engine from the command line."""

from app.engine.main import main

if __name__ == "__main__":
    main()
