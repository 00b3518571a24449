"""Draw the paper's figures from work dirs of trainings and searches, and count what models cost."""

from __future__ import annotations

from mmfixnorm.cli._parser import CommandParser

# Name -> module, and the line in `mmfixnorm analyze --help`.
COMMANDS = {
    'accuracy': ('mmfixnorm.cli.analyze.accuracy', 'Fig. 1 right and Fig. 2 left: accuracy against epoch'),
    'classifier-scale': (
        'mmfixnorm.cli.analyze.classifier_scale',
        'Fig. 2 right: scale of the classifier and cross-boundary risk against epoch',
    ),
    'lr-alpha-grid': ('mmfixnorm.cli.analyze.lr_alpha_grid', 'Fig. 4: a grid over learning rate and alpha'),
    'model-complexity': ('mmfixnorm.cli.analyze.model_complexity', 'Table 2: parameters and FLOPs'),
    'search-progress': ('mmfixnorm.cli.analyze.search_progress', 'Fig. 5: best value so far against cost'),
    'weight-norm': ('mmfixnorm.cli.analyze.weight_norm', 'Fig. 1 left: norm of the weights against epoch'),
}


def add_arguments(parser: CommandParser) -> None:
    """Add the commands, one for each figure or table."""
    parser.add_commands(COMMANDS)
