"""The recipes: one annotated YAML file for each stage of a study, in typed models.

``pretrain_<pre-training>.yaml`` and ``finetune_<target>.yaml`` say how a network is trained;
``evaluate_<target>.yaml`` says how it is run and scored. A recipe file is an input of its rule.
"""
