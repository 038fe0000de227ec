"""Two sentences for each code of a departure: for a reader who knows transformers, and for one who does not."""

from collections.abc import Mapping

_STATISTICS = (
    "{where}: {held} in new {channels} shift the statistics of the {norm}",
    "{kind} does not ignore what the new channels hold, so it computes other statistics than in the source.",
)
ON_PURPOSE: Mapping[str, tuple[str, str]] = {
    "noise_enters_norm": (
        "{where}: new {channels} hold {held}, which enter the statistics of the {norm}",
        "New channels hold values of their own, which {kind} includes in its statistics; all that follows changes.",
    ),
    "noise_is_read": (
        "new {units} hold {content}, and add to the residual stream at once",
        "New heads or units write to the residual stream from the first step on, before they have learned anything.",
    ),
    "next_layer": (
        "new rows come from the next layer (advanced knowledge)",
        "Part of each layer was replaced by weights of the layer above: a worse start and, by the paper, faster learning.",
    ),
    "scores_scaled": (
        "{tensor}: scores are {factor:.3g} times the source's, {scaled}",
        "Attention is sharper, or flatter, than the source's.",
    ),
    "noise_added": (
        "noise of {noise:g} standard deviations lies on the new rows and columns",
        "Small random values were added to new weights, so that copies do not stay equal.",
    ),
    "positions_stretched": (
        "positions are stretched over the longer table",
        "The table of positions was stretched to hold more, so that a position of the source has another embedding.",
    ),
    "context_changed": (
        "{what}: {departs}",
        "How tokens attend to each other was changed on purpose, as for longer texts; the model adapts in training.",
    ),
    "layers_reordered": (
        "the source's layers are reordered or left out",
        "The source's layers are in another order, or some are missing.",
    ),
    "random_layers": (
        "added layers are random and change what they pass on",
        "New layers are random, and all later layers read their output.",
    ),
    "repeated_layers": (
        "added layers repeat the source's and change what they pass on",
        "Layers run a second time, and the second run changes the result of the first.",
    ),
    "averaged_layers": (
        "layers are averages of several of the source's",
        "Some layers are averages of several of the source's, and an average computes what none of them does.",
    ),
    "routing_changed": (
        "{tensor}: {experts} experts of which {chosen} are chosen, where the source has {old} and chooses {old_chosen}",
        (
            "A token goes through other experts than in the source, or through the same ones by other shares. With r times as "
            "many experts of which r times as many are chosen nothing changes."
        ),
    ),
    "units_redrawn": (
        "{share:.3g} of the units of each expert are redrawn (drop-upcycling)",
        "Part of each expert was replaced by random values, so that experts learn different things.",
    ),
    "slices_routed_independently": (
        "{tensor}: each of the {slices} parts of an FFN has a row of its own, so that a token may miss some of them",
        "A token goes through some parts of the layer's network more than once, and through others not at all.",
    ),
    "gates_not_renormalized": (
        "{tensor}: the gates of the {chosen} of {experts} experts that are chosen are not divided by their sum",
        (
            "What experts add is multiplied by numbers that sum to something else for each token. They sum to 1 where "
            "norm_topk_prob is true, or where all experts are chosen."
        ),
    ),
    "groups_changed": (
        (
            "{tensor}: {groups} groups of experts of which {of_groups} are chosen, where the source has {old_groups} and "
            "chooses {old_of_groups}, for {copies} times as many experts"
        ),
        (
            "A token's experts are of other groups than in the source. With r times as many experts, r times as many groups of "
            "which r times as many are chosen change nothing."
        ),
    ),
}
"""What an operator or an option changes."""

NOT_EXACT: Mapping[str, tuple[str, str]] = {
    "uneven_counts": (
        "{where}: channels are copied {counts} times under one {norm}",
        (
            "Some channels were copied more often than others, and {kind} computes its statistics over all copies alike, "
            "so they are no longer the source's. Choose a hidden size that is a whole multiple of the source's, or "
            "width: auto."
        ),
    ),
    "zeros_enter_layer_norm": _STATISTICS,
    "means_enter_rms_norm": _STATISTICS,
    "statistics_scaled": _STATISTICS,
    "mean_not_written": _STATISTICS,
    "activated": (
        "{tensor}: an activation reads {held} in new channels and does not pass them on as they are",
        "The activation before the output matrix changes what new channels hold, and the next norm computes other statistics.",
    ),
    "scales_differ_under_layer_norm": (
        "{where}: channels with different scales meet in one {norm}",
        "LayerNorm subtracts the mean over all channels, which is the source's only if all of them have the same scale.",
    ),
    "normalizes_again": (
        "an added layer normalizes again, and LN(LN(x)) is not LN(x) in a post-LN model",
        "In a post-LN model even a layer that adds nothing normalizes its input once more, and that changes it.",
    ),
    "layer_kinds_differ": (
        "{tensor}: a layer is of another kind than the source's layer that it is made of",
        "A layer has another window, other positions or other norms than the layer whose weights it has.",
    ),
    "writers_differ": (
        "{tensor}: what is added to the residual stream was grown in another way than the stream",
        "Two summands were grown in different ways, and their sum is not the source's.",
    ),
    "writers_scaled_differently": (
        "{tensor}: what is added to the residual stream has another scale",
        "Two summands were grown to different scales, and their sum is not the source's.",
    ),
    "copies_are_read_as_others": (
        "{tensor}: reads channels as others than the ones that they copy",
        "Weights read channels that they were not trained on.",
    ),
    "copies_are_read_unevenly": (
        "{tensor}: does not read each source channel alike",
        "Some of the source's channels count for more than before.",
    ),
    "mean_is_read": (
        "{tensor}: reads channels at the mean",
        "Channels that hold a mean are read as if they held values of the source.",
    ),
    "uneven_channels_of_head": (
        "{tensor}: the channels of a head are not repeated equally often under its norm",
        "A norm over each head computes other statistics than in the source.",
    ),
    "logits_scaled": (
        "{tensor}: logits are multiplied by {factor:g}",
        "All logits are larger or smaller by one factor.",
    ),
}
"""What cannot be exact at these sizes or in this family."""

SENTENCES = {**ON_PURPOSE, **NOT_EXACT}
